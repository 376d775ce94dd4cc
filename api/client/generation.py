"""One generation of our own: its events as they come, and hands on it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from api.client.opening import Frame
from api.client.typed import EVENT_NAMES
from engine.errors import TokenglassError
from engine.events import Event, EventAdapter

if TYPE_CHECKING:
    from api.client.inbox import Inbox
    from api.client.live import LiveClient


class Answer:
    """The text of one generation, put together from its frames."""

    def __init__(self) -> None:
        self._text: list[str] = []

    def take(self, frame: Frame, generation_id: str | None) -> str:
        """What a frame adds to the text. What a `rewind` takes back can't be recalled from whoever had it."""
        match frame["type"]:
            case "generation.delta":
                self._text.append(frame["text"])
                return str(frame["text"])
            case "generation.rewound":
                self._text = [frame["text"]]
            case "generation.forked" if frame["branch_id"] == generation_id:
                return self._reach(frame["text"])
            case "generation.finished":
                return self._reach(frame["text"])
            case "snapshot":  # after a gap
                for entry in frame["generations"]:
                    if entry["generation_id"] == generation_id:
                        return self._reach(entry["text"])
        return ""

    def _reach(self, text: str) -> str:
        """Go on to this text; answers what is missing. Nothing, where it isn't what went before and more."""
        before = "".join(self._text)
        self._text = [text]
        return text[len(before) :] if text.startswith(before) else ""


class Generation:
    """The events of one generation of our own; the last one is `generation.finished`.

    Where the connection goes, it goes on with what was missed. After a gap that can't be filled the frames
    `reset` and `snapshot` come first: the snapshot's entry has all that there is so far.

    Iterating raises TokenglassError: what `generate` was answered, or ConnectionLostError where the client
    or the app ends before the generation does.
    """

    def __init__(self, client: LiveClient, arguments: Frame, command: str = "generate") -> None:
        self.result: Frame | None = None
        """What `generate` answered: `generation_id`, and with a conversation the ids of its messages."""
        self._client = client
        self._command = command
        self._arguments = arguments
        self._starting: asyncio.Task[tuple[Frame, Inbox]] | None = None
        self._inbox: Inbox | None = None
        self._over = False
        self._finished: Frame | None = None

    @property
    def id(self) -> str | None:
        """Its `generation_id`, once it has started."""
        return self.result["generation_id"] if self.result is not None else None

    async def start(self) -> Frame:
        """Send the command, unless it was sent; answers `result`. Cancelling this doesn't send it again."""
        if self._starting is None:
            self._starting = self._client.start_generation(self._command, self._arguments)
        result, self._inbox = await asyncio.shield(self._starting)
        self.result = result
        return result

    def __aiter__(self) -> Generation:
        return self

    async def __anext__(self) -> Frame:
        if self._over:
            raise StopAsyncIteration
        await self.start()
        assert self._inbox is not None
        try:
            frame = await self._inbox.get()
        except TokenglassError:
            self._over = True
            raise
        if frame["type"] == "generation.finished":
            self._over, self._finished = True, frame
        return frame

    async def batch(self) -> list[Frame]:
        """The next events that are there, at least one; none after the last."""
        try:
            frames = [await anext(self)]
        except StopAsyncIteration:
            return []
        while not self._over and self._inbox is not None and self._inbox.waiting:
            frames.append(await anext(self))
        return frames

    async def typed(self) -> AsyncIterator[Event]:
        """Its events as the models of `engine.events`."""
        async for frame in self:
            if frame["type"] in EVENT_NAMES:
                yield EventAdapter.validate_python(frame)

    async def text(self) -> AsyncIterator[str]:
        """The answer piece by piece as it is written, without reasoning and tool calls; all of it, once.

        What a `rewind` takes back has been given already; `finished` has the final text.
        """
        answer = Answer()
        async for frame in self:
            if piece := answer.take(frame, self.id):
                yield piece

    async def finished(self) -> Frame:
        """Its last event, with the whole `text`, `usage` and `timings`. Takes what comes before."""
        async for _ in self:
            pass
        if self._finished is None:
            raise TokenglassError("bad_state", "how this generation ended is not known")
        return self._finished

    # ---- hands

    async def cancel(self) -> None:
        """End it; its `finished` event comes nevertheless. Nothing happens where it hasn't started."""
        if self._starting is not None:
            await self._do("cancel")

    async def pause(self) -> Frame:
        """Hold it before its next token. This and what follows starts it, if need be."""
        return await self._do("pause")

    async def resume(self) -> Frame:
        return await self._do("resume")

    async def step(self, tokens: int = 1) -> Frame:
        """Let it write some tokens and pause again; only while it is paused."""
        return await self._do("step", tokens=tokens)

    async def update(self, **sampling: object) -> Frame:
        """Change sampling parameters from its next token on."""
        return await self._do("update", sampling=sampling)

    async def rewind(self, tokens: int = 1) -> Frame:
        """Remove its last tokens."""
        return await self._do("rewind", tokens=tokens)

    async def inject(self, text: str) -> Frame:
        """Put text into its answer."""
        return await self._do("inject", text=text)

    async def fork(self, at_token: int, token_id: int | None = None, **more: object) -> Generation:
        """A branch that has its first tokens; `token_id` is the next, if given."""
        result = await self.start()
        arguments = {"generation_id": result["generation_id"], "at_token": at_token, **more}
        if token_id is not None:
            arguments["token_id"] = token_id
        branch = Generation(self._client, arguments, "fork")
        await branch.start()
        return branch

    async def tool_result(self, call_id: str, content: str) -> Generation | None:
        """Give what one of its calls gave, once it has finished.

        With the last result: the generation that goes on from there; None before.
        """
        arguments = {"generation_id": self.id, "call_id": call_id, "content": content}
        following = Generation(self._client, arguments, "tool_result")
        result = await following.start()
        return None if result["pending"] else following

    async def _do(self, command: str, **arguments: object) -> Frame:
        result = await self.start()
        return await self._client.request(command, generation_id=result["generation_id"], **arguments)
