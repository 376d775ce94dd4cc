"""Follows one answer and tells plain text, reasoning and tool calls apart.

What turns out to be no call is given back as plain text, never as an error. Nothing is lost but markers and
the white space around them, and where the text is cut makes no difference.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Generator, Sequence
from typing import NamedTuple

from engine.formats.bodies import MAX_HEADER, BodyReader, read_arguments
from engine.formats.call import Call
from engine.formats.format import CallSyntax, Format
from engine.formats.markers import MORE, NO, Marker, MarkerSet, skip_space
from engine.formats.reader import Reader, Reading
from engine.types import OpenCall, Tool, ToolCall

SHORTEST_MARK = 3
"""Characters of what opens calls; less would be found in any text."""


class ReasoningText(NamedTuple):
    """A piece of reasoning."""

    text: str


class CallText(NamedTuple):
    """A piece of a call's text, as the model writes it between what opens and closes it.

    A call's arguments are those of its pieces joined; all of them have come when the whole call does.
    """

    call_id: str
    text: str
    name: str = ""
    """Who is called, once that is known."""
    arguments: str = ""
    """What the piece adds to the arguments' JSON text."""


Piece = str | ReasoningText | CallText | ToolCall
"""Plain text, a piece of reasoning, a piece of a call's text, or a whole call."""


class AnswerParser:
    """Follows the text of one generation. Calls are looked for only where there are tools."""

    def __init__(
        self, form: Format, *, generation_id: str, tools: Sequence[Tool] = (), reasoning_open: bool = False
    ) -> None:
        self.call_id: str | None = None
        """Of the call that is open."""
        self.reasoning = reasoning_open
        """A reasoning block is open."""
        self._format = form
        self._generation_id = generation_id
        self._n_opened = 0
        self._has_tools = bool(tools)
        schemas = {tool.function.name: tool.function.parameters for tool in tools}
        self._names = frozenset(schemas)
        self._call = Call()
        """The open one."""
        self._begun = 0
        """Where its text begins."""
        self._pieces: list[Piece] = []
        self._reader = Reader()
        self._given = 0
        """Text before it has been passed on; within a call, what follows may have to be given back."""
        self._told = 0
        """Text before it has been told as the open call's."""
        self._fresh = True
        """Nothing but white space has come since the beginning or the last block."""
        self._after_marker = False
        """White space that comes now stands after a marker, and is dropped."""
        calls = form.calls if tools else None
        self._bare = calls is not None and calls.kind == "json" and not (calls.section_open or calls.open)
        skip = [(marker, "skip") for marker in form.skip]
        reasoning = [(form.reasoning_open, "reasoning"), (form.reasoning_close, "skip")]
        opens: list[tuple[str, str]] = []
        if calls is not None:
            opens = _openings(calls)
            self._bodies = BodyReader(calls, schemas)
            self._between = MarkerSet(
                [(calls.section_close, "close"), (calls.separator, "separator"), (calls.open, "call")]
            )
            self._call_end = MarkerSet([(calls.close or calls.section_close, "close")])
        self._calls = calls
        ends = [(form.reasoning_close, "skip")]
        in_text = [*skip, *opens]
        if form.header is not None:
            ends = [(end, "skip") for end in form.header.ends]
            in_text += [*ends, (form.header.open, "header")]
        if form.reasoning_tokens:
            in_text += reasoning
        self._in_text = MarkerSet(in_text)
        self._at_start = MarkerSet([*in_text, *reasoning])
        self._message_ends = MarkerSet(ends)
        # a call or content in mid-thought, where its marker can't be meant as words: a control token, or
        # several tags
        begins = skip if form.reasoning_tokens else []
        begins += (
            opens if form.call_tokens else [open_ for open_ in opens if len(Marker(open_[0]).pieces) > 1]
        )
        self._reasoning_ends = MarkerSet([*ends, *begins])
        self._awaited: MarkerSet | None = None
        """While text is passed on: the markers that would end that."""
        self._run = self._answer()
        next(self._run, None)

    def push(self, text: str) -> list[Piece]:
        """What the text adds."""
        if self._is_plain(text):
            return ([ReasoningText(text)] if self.reasoning else [text]) if text else []
        reader = self._reader
        if self.call_id is None and self._given:
            reader.text = reader.text[self._given :]
            reader.at -= self._given
            self._given = 0
        reader.text += text
        next(self._run, None)
        return self._taken()

    def finish(self) -> list[Piece]:
        """What was withheld; a call that isn't closed counts where it is whole."""
        self._reader.ended = True
        next(self._run, None)
        return self._taken()

    @property
    def place(self) -> Piece:
        """An empty piece of what the text now goes to."""
        if self.call_id is not None:
            return CallText(self.call_id, "", self._known_name)
        return ReasoningText("") if self.reasoning else ""

    @property
    def open_call(self) -> OpenCall | None:
        """What has been told of a call that isn't whole yet."""
        if self.call_id is None or not self._begun < self._told < sys.maxsize:
            return None
        text, name = self._reader.text[self._begun : self._told], self._known_name or None
        return OpenCall(id=self.call_id, name=name, text=text, arguments=self._call.taken)

    @property
    def _known_name(self) -> str:
        """Of the open call. Calls of what is no tool are told when they are whole; most of them are none."""
        return self._call.name if self._call.name in self._names else ""

    def _is_plain(self, text: str) -> bool:
        """Whether the text only goes on: nothing is withheld, and nothing in it may begin a marker."""
        return (
            self._awaited is not None
            and self._reader.at == len(self._reader.text)
            and self._awaited.first_characters.isdisjoint(text)
            and not text[-1:].isspace()
        )

    def _taken(self) -> list[Piece]:
        self._tell()
        pieces, self._pieces = self._pieces, []
        return pieces

    def _tell(self) -> None:
        """Pass on what has come of the open call."""
        if self.call_id is None:
            return
        at = self._reader.at
        text = self._reader.text[self._told : at] if at > self._told else ""
        name = self._known_name
        arguments = self._call.take() if name else ""
        if text or arguments:
            self._pieces.append(CallText(self.call_id, text, name, arguments))
            self._told = max(at, self._told)

    def _pass(self, stop: int, whole: bool) -> None:
        """Pass on text up to `stop` as content or reasoning; at its end white space only if `whole`."""
        reader = self._reader
        text = reader.text[reader.at : stop]
        if not whole:
            text = text.rstrip()
        reader.at += len(text)
        self._given = reader.at
        if text:
            self._after_marker = False
            self._pieces.append(ReasoningText(text) if self.reasoning else text)

    def _begin_block(self) -> None:
        """Go on after a marker."""
        self._given = self._reader.at
        self._fresh = self._after_marker = True

    def _answer(self) -> Generator[None, None, None]:
        self._begin_block()
        self._after_marker = self.reasoning  # content keeps white space at the answer's beginning
        role = "thought" if self.reasoning else "content" if self._format.header is None else "header"
        while role:
            if role == "content":
                role = yield from self._content()
            elif role == "header":
                role = yield from self._in_header()
            elif role == "reasoning":
                self._begin_block()
                self.reasoning = True
                role = "thought"
            elif role == "thought":
                role = yield from self._in_reasoning()
            elif role == "skip":
                self._begin_block()
                role = "content"
            else:
                yield from self._section(role == "call")
                # what looked like a call in mid-thought may have been none
                role = "thought" if self.reasoning else "content"

    def _content(self) -> Reading[str]:
        """Pass text on up to the next marker, and that; answers the marker's role, or nothing at the end."""
        reader = self._reader
        while True:
            if self._fresh:
                role = yield from self._beginning()
                if role:
                    return role
            hit = self._in_text.search(reader.text, reader.at, reader.ended)
            stop = hit.start if hit else len(reader.text)
            self._pass(stop, whole=not self._in_text or (reader.ended and hit is None))
            if hit and hit.end != MORE:
                reader.at = hit.end
                return hit.role
            if reader.ended:
                return ""
            self._awaited = self._in_text
            yield
            self._awaited = None

    def _beginning(self) -> Reading[str]:
        """What comes at the beginning of the answer or after a block: a marker's role, or nothing."""
        reader = self._reader
        while True:
            start = skip_space(reader.text, reader.at)
            end, role = NO, ""
            if start < len(reader.text):
                end, role = self._at_start.match(reader.text, start, reader.ended)
                if end == NO and self._bare:
                    found = _FIRST_KEY.match(reader.text, start)
                    if found and found.group(1) is not None:
                        end, role = (start, "call") if found.group(1) in _CALL_KEYS else (NO, "")
                    elif found and found.end() == len(reader.text) and not reader.ended:
                        end = MORE
                if end != MORE:
                    break
            if reader.ended:
                break
            yield
        if end >= 0:
            reader.at = end
            return role
        self._fresh = False
        if self._after_marker:
            reader.at = self._given = start
        return ""

    def _in_reasoning(self) -> Reading[str]:
        """Pass reasoning on; answers the role of the marker that ends it, or nothing at the end."""
        reader = self._reader
        if self._after_marker:
            yield from reader.space()
        while True:
            hit = self._reasoning_ends.search(reader.text, reader.at, reader.ended)
            self._pass(hit.start if hit else len(reader.text), whole=reader.ended and hit is None)
            if hit and hit.end != MORE:
                reader.at = hit.end
                self.reasoning = hit.role != "skip"
                return hit.role
            if reader.ended:
                return ""
            self._awaited = self._reasoning_ends
            yield
            self._awaited = None

    def _in_header(self) -> Reading[str]:
        """A message's header, and a call where it announces one; answers what comes next.

        What is no header stays content.
        """
        header, reader = self._format.header, self._reader
        assert header is not None
        self._fresh = True
        while True:
            end = reader.text.find(header.close, reader.at)
            text = reader.text[reader.at : end if end >= 0 else len(reader.text)]
            begin = text.lstrip()
            if header.begins:
                plausible = any(b.startswith(begin[: len(b)]) for b in (*header.begins, header.close))
            else:
                plausible = _NAME_SO_FAR.fullmatch(begin) is not None
            if not plausible or len(text) > MAX_HEADER:
                self._pass_marker()
                return "content"
            if end >= 0:
                break
            if not (yield from reader.more()):
                self._pass_marker()
                return "content"
        if not header.begins and text.strip() not in (self._names | {"all"}):
            self._pass_marker()
            return "content"
        reader.at = end + len(header.close)
        if re.search(header.reasoning, text):
            self._begin_block()
            return "reasoning"
        if self._has_tools and header.call and (found := re.search(header.call, text)):
            yield from self._message_call(found.group(1))
            return "content"
        return "skip"

    def _pass_marker(self) -> None:
        """What has been taken for the beginning of a message is content."""
        reader = self._reader
        if reader.at > self._given:
            self._pieces.append(reader.text[self._given : reader.at])
            self._given = reader.at
            self._fresh = self._after_marker = False

    def _message_call(self, name: str) -> Reading[None]:
        """A call whose header has named it."""
        reader = self._reader
        yield from self._open_call()
        self._call.name = name
        if not (yield from read_arguments(reader, self._call)):
            self._give_back()
            return
        self._tell()
        self._close_call()
        _, end, _ = yield from reader.peek(self._message_ends)
        if end != NO:
            reader.at = end
        self._begin_block()

    def _section(self, in_call: bool) -> Reading[None]:
        """Calls, from behind the marker that opens them all, or the first one (`in_call`)."""
        reader, calls = self._reader, self._calls
        assert calls is not None
        one = not calls.section_open.strip()
        found = False
        while True:
            if not in_call:
                _, end, role = yield from reader.peek(self._between)
                if role == "separator":
                    reader.at = end
                    _, end, role = yield from reader.peek(self._between)
                if role == "close":
                    reader.at = end
                    if found:
                        self._begin_block()
                        return
                    break
                if role == "call":
                    reader.at = end
                elif calls.open.strip() or not (yield from reader.space()):
                    break
            in_call = False
            yield from self._open_call()
            whole = yield from self._bodies.read(reader, self._call)
            self._tell()
            if not whole or not (yield from self._bodies.close(reader)):
                self._give_back()
                return
            self._close_call()
            found = True
            if one:
                self._begin_block()
                return
        if found:  # what comes now isn't part of the section
            reader.at = self._given
            self._begin_block()
        else:
            self._give_back()

    def _open_call(self) -> Reading[None]:
        self.call_id = f"call_{self._generation_id}_{self._n_opened}"
        self._n_opened += 1
        self._call = Call()
        self._told = sys.maxsize  # white space before it isn't the call's
        yield from self._reader.space()
        self._begun = self._told = self._reader.at

    def _close_call(self) -> None:
        assert self.call_id is not None
        call = self._call
        if rest := call.take():
            self._pieces.append(CallText(self.call_id, "", call.name, rest))
        self._pieces.append(ToolCall(id=self.call_id, name=call.name, arguments=call.arguments))
        self.call_id = None
        self.reasoning = False
        self._begin_block()

    def _give_back(self) -> None:
        """What was no call is plain text, up to the first marker that would have closed it."""
        self._tell()
        self.call_id = None
        reader = self._reader
        end = reader.at
        if self._calls is not None and self._call_end:
            hit = self._call_end.search(reader.text[:end], max(self._given, self._begun), True)
            end = hit.end if hit else end
        text = reader.text[self._given : end]
        self._pieces.append(ReasoningText(text) if self.reasoning else text)
        reader.at = self._given = end
        self._fresh = self._after_marker = False


def _openings(calls: CallSyntax) -> list[tuple[str, str]]:
    """What begins calls, with roles; also without the first of two tags, which some models leave out."""
    openings = [(calls.section_open, "section")] if calls.section_open.strip() else []
    openings.append((calls.open, "call"))
    pieces = Marker(calls.open).pieces
    if len(pieces) > 1:
        openings.append((pieces[-1], "call"))
    return [(literal, role) for literal, role in openings if len(literal.strip()) >= SHORTEST_MARK]


_FIRST_KEY = re.compile(r"\{\s*(?:\"(?:([a-z_]{1,16})\"|[a-z_]{0,16})?)?")
_CALL_KEYS = frozenset({"name", "arguments", "parameters", "type", "function", "id"})
_NAME_SO_FAR = re.compile(r"[A-Za-z0-9_.-]*")
