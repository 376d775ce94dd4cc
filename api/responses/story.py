"""From the events of one generation to those of one response, in the order that strict clients hold to.

Texts only ever grow on the wire: a delta can't be taken back. Where somebody rewinds the generation within
the item being written, later deltas are added to what was told, and the item's `done` events have the text
that holds; a call's arguments have to come again as they were. Where a rewind reaches into an item that was
told as done, or what was told as a call turns out to be none, the response has failed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from api.openai import answers
from api.openai.calls import BROKEN_OFF, REWOUND, ToldCall
from api.responses import errors
from api.responses.written import Kind, WrittenCall, WrittenText
from engine.errors import ErrorInfo
from engine.events import (
    GenerationDelta,
    GenerationEvent,
    GenerationFinished,
    GenerationRewound,
    GenerationStarted,
    ReasoningDelta,
    ToolCallDelta,
    ToolCallDone,
)
from engine.types import Token

WireEvent = dict[str, Any]

_STATUS = {
    "stop": "completed",
    "tool_calls": "completed",
    "length": "incomplete",
    "context_full": "incomplete",
    "cancelled": "cancelled",
    "error": "failed",
}
_TERMINALS = {
    "completed": "response.completed",
    "incomplete": "response.incomplete",
    "cancelled": "response.incomplete",  # there is no event of its own, and clients wait for one they know
    "failed": "response.failed",
}
_TEXTS = GenerationDelta | ReasoningDelta


class Story:
    """One response from its first event to its last. Made when its generation is about to begin."""

    def __init__(
        self,
        head: dict[str, Any],
        stream_id: str | None = None,
        *,
        logprobs: bool = False,
        told: bool = True,
        prewarm: bool = False,
    ) -> None:
        """`head` has what stays the same. Where nobody is `told` the events, any rewind can be followed.

        `prewarm`: the generation only computes the prompt; what it draws is dropped.
        """
        self.head = head
        self.id: str = head["id"]
        self.final: dict[str, Any] | None = None
        """The response as it ended."""
        self._lane = {} if stream_id is None else {"stream_id": stream_id}
        self._wants_logprobs = logprobs
        self._told = told
        self._prewarm = prewarm
        self._next = 0
        self._status = "in_progress"
        self._items: list[WrittenText | WrittenCall] = []
        self._reasoning_tokens: list[int] = []
        self._given_back = self._rewound = False
        self._end: GenerationFinished | None = None
        self._error: ErrorInfo | None = None

    @property
    def next_number(self) -> int:
        """The next event's `sequence_number`."""
        return self._next

    @property
    def ended(self) -> bool:
        """Nothing but the last event is to come."""
        return self._status != "in_progress"

    @property
    def error(self) -> ErrorInfo | None:
        """Why it failed."""
        return self._error

    def created(self) -> WireEvent:
        return self._event("response.created", response=self.so_far())

    def in_progress(self) -> WireEvent:
        return self._event("response.in_progress", response=self.so_far())

    def so_far(self) -> dict[str, Any]:
        """The response as it stands."""
        if self.final is not None:
            return self.final
        return {**self.head, "status": "in_progress", "output": self._output()}

    def take(self, event: GenerationEvent) -> list[WireEvent]:
        """What an event of the generation adds. Nothing is taken after the end."""
        if self.ended:
            return []
        return list(self._take(event))

    def _take(self, event: GenerationEvent) -> Iterator[WireEvent]:
        if self._given_back and not isinstance(event, _TEXTS | GenerationFinished):
            yield from self._break_off()
            return
        match event:
            case GenerationStarted():
                yield self.in_progress()
            case GenerationFinished():
                yield from self._finish(event)
            case _ if self._prewarm:
                pass
            case ReasoningDelta():
                self._reasoning_tokens += [token["index"] for token in event.tokens]
                yield from self._grow("reasoning", event.text, event.tokens)
            case GenerationDelta():
                yield from self._grow("message", event.text, event.tokens)
            case ToolCallDelta() if self._told and event.name and event.arguments:
                item = self._open
                had = item.call.arguments if isinstance(item, WrittenCall) else ""
                yield from self._call(event.call_id, event.name, had + event.arguments)
            case ToolCallDone():
                yield from self._call(event.call.id, event.call.name, event.call.arguments)
                if not self.ended:
                    yield from self._close()
            case GenerationRewound():
                yield from self._rewind(event)
            case _:
                pass

    def terminal(self) -> WireEvent:
        """The last event."""
        response = self.close()
        return self._event(_TERMINALS[response["status"]], response=response)

    def close(self) -> dict[str, Any]:
        """The response as it ended; to be asked for once it has."""
        if self.final is None:
            self.final = self._closed()
        return self.final

    def complete(self) -> None:
        """End it without output: there was nothing to compute."""
        self._status = "completed"

    # ---- items

    def _grow(self, kind: Kind, text: str, tokens: list[Token]) -> Iterator[WireEvent]:
        if not text:
            return
        item = self._open
        if isinstance(item, WrittenCall):
            self._given_back = True  # its text isn't told a second time
            if tokens:  # it isn't the end that cuts it short
                yield from self._break_off()
            return
        if item is None or item.kind != kind:
            yield from self._close()
            item = WrittenText(kind, self._new_id("msg" if kind == "message" else "rs"), len(self._items))
            self._items.append(item)
            yield from self._begin(item)
        item.texts.append(text)
        fields: dict[str, Any] = {"delta": text}
        if kind == "message":
            logprobs = self._logprobs(tokens)
            item.logprobs += logprobs
            fields["logprobs"] = [told for _, told in logprobs]
        yield self._of_part(item, "delta", **fields)

    def _logprobs(self, tokens: list[Token]) -> list[tuple[int, dict[str, Any]]]:
        if not self._wants_logprobs:
            return []
        indices = [token["index"] for token in tokens if "logprob" in token]
        return list(zip(indices, answers.token_logprobs(tokens), strict=True))

    @property
    def _open(self) -> WrittenText | WrittenCall | None:
        """The item that is being written."""
        last = self._items[-1] if self._items else None
        return last if last is not None and last.status == "in_progress" else None

    def _begin(self, item: WrittenText | WrittenCall) -> Iterator[WireEvent]:
        yield self._event("response.output_item.added", output_index=item.index, item=item.item(empty=True))
        if isinstance(item, WrittenCall):
            return
        yield self._event(
            "response.content_part.added",
            item_id=item.item_id,
            output_index=item.index,
            content_index=0,
            part=item.part(),
        )

    def _close(self, status: str = "completed") -> Iterator[WireEvent]:
        item = self._open
        if item is None:
            return
        item.status = status
        if isinstance(item, WrittenCall):
            done = {"name": item.call.name, "arguments": item.call.told}
            yield self._of_call(item, "done", **done)
            yield self._event("response.output_item.done", output_index=item.index, item=item.item())
            return
        fields: dict[str, Any] = {"text": item.text}
        if item.kind == "message":
            fields["logprobs"] = item.told_logprobs
        yield self._of_part(item, "done", **fields)
        yield self._event(
            "response.content_part.done",
            item_id=item.item_id,
            output_index=item.index,
            content_index=0,
            part=item.part(),
        )
        yield self._event("response.output_item.done", output_index=item.index, item=item.item())

    def _of_part(self, item: WrittenText, what: str, **fields: Any) -> WireEvent:
        part = "output_text" if item.kind == "message" else "reasoning_text"
        place = {"item_id": item.item_id, "output_index": item.index, "content_index": 0}
        return self._event(f"response.{part}.{what}", **place, **fields)

    def _of_call(self, item: WrittenCall, what: str, **fields: Any) -> WireEvent:
        place = {"item_id": item.item_id, "output_index": item.index}
        return self._event(f"response.function_call_arguments.{what}", **place, **fields)

    def _call(self, call_id: str, name: str, arguments: str) -> Iterator[WireEvent]:
        """A call with its arguments so far."""
        item = self._open
        if not isinstance(item, WrittenCall):
            yield from self._close()
            item = WrittenCall(self._new_id("fc"), len(self._items), call_id, ToldCall(name))
            self._items.append(item)
            yield from self._begin(item)
        rest = item.call.stand(name, arguments) if call_id == item.call_id else None
        if rest is None:
            yield from self._break_off()
        elif rest:
            yield self._of_call(item, "delta", delta=rest)

    def _break_off(self) -> Iterator[WireEvent]:
        """What was told can't be gone on with."""
        yield from self._close("incomplete")
        self._status, self._error = "failed", REWOUND if self._rewound else BROKEN_OFF

    # ---- hands of others

    def _rewind(self, event: GenerationRewound) -> Iterator[WireEvent]:
        self._reasoning_tokens = [index for index in self._reasoning_tokens if index < event.at_token]
        self._rewound = True
        item = self._open
        done = [one for one in self._items if one is not item]
        calls = [one.whole for one in done if isinstance(one, WrittenCall)]
        rest = {"message": event.text, "reasoning": event.reasoning}
        holds = event.tool_calls == calls
        for one in done:
            if isinstance(one, WrittenText):
                holds &= rest[one.kind].startswith(one.text)
                rest[one.kind] = rest[one.kind][len(one.text) :]
        left = rest.pop(item.kind) if isinstance(item, WrittenText) else ""
        if holds and not any(rest.values()):
            if isinstance(item, WrittenCall):  # the same call may come again
                same = event.open_call is not None and event.open_call.id == item.call_id
                item.call.arguments = event.open_call.arguments if event.open_call and same else ""
            elif item is not None:
                item.texts = [left]
                item.logprobs = [one for one in item.logprobs if one[0] < event.at_token]
        elif self._told:
            yield from self._break_off()
        else:
            self._start_over(event)

    def _start_over(self, event: GenerationRewound) -> None:
        """Nobody has seen anything yet: the items are what the rewound answer has."""
        self._items.clear()
        unheard: list[WireEvent] = []
        unheard += self._grow("reasoning", event.reasoning, [])
        unheard += self._grow("message", event.text, [])
        for call in event.tool_calls:
            unheard += self._call(call.id, call.name, call.arguments)
            unheard += self._close()

    # ---- the end

    def _finish(self, event: GenerationFinished) -> Iterator[WireEvent]:
        self._end, self._error = event, event.error
        status = _STATUS[event.finish_reason]
        if self._prewarm and (status == "incomplete" or self._error_is("invalid_prompt")):
            # a template may refuse what isn't a whole question yet: then there is nothing to keep warm
            status, self._error = "completed", None
        elif not self._items and status in ("completed", "incomplete") and not self._prewarm:
            item = WrittenText("message", self._new_id("msg"), 0)  # an answer of no text is an answer, too
            self._items.append(item)
            yield from self._begin(item)
        if status == "completed" and isinstance(self._open, WrittenCall):
            yield from self._break_off()
            return
        yield from self._close("completed" if status == "completed" else "incomplete")
        self._status = status

    def _error_is(self, code: str) -> bool:
        return self._error is not None and self._error.code == code

    def _closed(self) -> dict[str, Any]:
        told = {**self.head, "status": self._status, "output": self._output()}
        if self._end is not None:
            told["usage"] = self._usage(self._end)
            told["timings"] = answers.timings(self._end)
        if self._status == "incomplete":
            told["incomplete_details"] = {"reason": "max_output_tokens"}
        if self._error is not None:
            told["error"] = errors.in_response(self._error)
        return told

    def _usage(self, end: GenerationFinished) -> dict[str, Any]:
        used = end.usage
        completion = 0 if self._prewarm else used.completion_tokens
        computed = used.prompt_tokens - used.cached_tokens
        return {
            "input_tokens": used.prompt_tokens,
            "input_tokens_details": {"cached_tokens": used.cached_tokens, "cache_write_tokens": computed},
            "output_tokens": completion,
            "output_tokens_details": {"reasoning_tokens": len(self._reasoning_tokens)},
            "total_tokens": used.prompt_tokens + completion,
        }

    def _output(self) -> list[dict[str, Any]]:
        return [item.item() for item in self._items]

    def _new_id(self, prefix: str) -> str:
        return f"{prefix}_{self.id.removeprefix('resp_')}_{len(self._items)}"

    def _event(self, name: str, /, **fields: Any) -> WireEvent:
        event = {"type": name, "sequence_number": self._next, **self._lane, **fields}
        self._next += 1
        return event


def head_of(response_id: str, model: str, created: int, told: dict[str, Any]) -> dict[str, Any]:
    """What stays the same in a response from its beginning to its end."""
    return {
        "id": response_id,
        "object": "response",
        "created_at": created,
        "model": model,
        "status": "in_progress",
        "error": None,
        "incomplete_details": None,
        "output": [],
        "usage": None,
        "service_tier": None,
        **told,
    }
