"""OpenAI's HTTP API: models, chat completions, completions, embeddings.

A request is a client of its own; what it asks for is a command of the service like anybody's, so everybody
who looks sees it live.
"""

from __future__ import annotations

import array
import asyncio
import base64
import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from api import protocol
from api.clients import Clients
from api.http import Answer, Exchange, Request, json_answer
from api.openai import answers, chat, completions, feed, wishes
from api.openai.errors import Refused, answer_to, body_of
from api.openai.feed import Feed, generations
from api.openai.transcript import Transcript
from api.openai.transcript import whole as whole_answers
from api.openai.wishes import Wish
from api.version import VERSION
from engine.errors import TokenglassError
from engine.events import GenerationStarted
from engine.types import Origin

if TYPE_CHECKING:
    from api.server import LiveServer
    from api.service import Service

CHAT_PATH = "/v1/chat/completions"
COMPLETIONS_PATH = "/v1/completions"
EMBEDDINGS_PATH = "/v1/embeddings"
MODELS_PATH = "/v1/models"
EVENT_STREAM = "text/event-stream"


class Dialect:
    """Answers the paths. Loop thread only."""

    def __init__(self, server: LiveServer, clients: Clients) -> None:
        self._server = server
        self._clients = clients
        self._started = feed.unix_now()
        self._posts: dict[str, Callable[[Request, Exchange], Awaitable[None]]] = {
            CHAT_PATH: self._chat,
            COMPLETIONS_PATH: self._completions,
            EMBEDDINGS_PATH: self._embeddings,
        }

    async def serve(self, path: str, request: Request, exchange: Exchange) -> None:
        """Answer a request of one of the paths, with an error where it can't be done."""
        try:
            if handler := self._posts.get(path):
                await handler(request, exchange)
            else:
                await exchange.send(self._models(path))
        except (TokenglassError, Refused) as error:
            if exchange.started:
                raise
            await exchange.send(answer_to(error))

    # ---- models

    def _models(self, path: str) -> Answer:
        """The model that answers, loaded or being loaded, alone or in a list."""
        loaded = self._server.service.supervisor.model_id
        if path == MODELS_PATH:
            return json_answer(200, {"object": "list", "data": [self._model(loaded)] if loaded else []})
        wanted = unquote(path.removeprefix(f"{MODELS_PATH}/"))
        if loaded is None or wanted != loaded:
            raise Refused(404, "model_not_found", f"the model {wanted!r} isn't loaded", "model")
        return json_answer(200, self._model(loaded))

    def _model(self, model_id: str) -> dict[str, Any]:
        told = {"id": model_id, "object": "model", "created": self._started, "owned_by": "tokenglass"}
        info = self._server.state.model
        if info is None or info.id != model_id:
            return told
        names = ("n_vocab", "n_ctx", "n_ctx_train", "n_embd", "n_params", "n_slots")
        meta = {name: getattr(info, name) for name in names}
        return {**told, "meta": {**meta, "size": info.size_bytes}}

    # ---- generations

    async def _chat(self, request: Request, exchange: Exchange) -> None:
        data = await body_of_request(request)
        wish = wishes.chat(data)
        model = await answering(self._server.service, data.get("model"))
        async with self._generations(request, exchange, "chat_completions", wish) as feed_:
            head = _head("chatcmpl", feed_, model)
            if wish.stream:
                chunks = chat.Chunks(head, len(wish.commands), wish.logprobs, wish.include_usage)
                await _stream(feed_, exchange, chunks, wish)
            else:
                said = await whole_answers(feed_, wish.logprobs)
                await exchange.send(json_answer(200, chat.whole(head, said, wish.logprobs)))

    async def _completions(self, request: Request, exchange: Exchange) -> None:
        data = await body_of_request(request)
        wish = wishes.completion(data)
        model = await answering(self._server.service, data.get("model"))
        n_prompts = len(wishes.prompts_of(data))
        echoes = [str(command.prompt) if data.get("echo") else "" for command in wish.commands]
        async with self._generations(request, exchange, "completions", wish) as feed_:
            head = _head("cmpl", feed_, model)
            if wish.stream:
                chunks = completions.Chunks(head, echoes, wish.logprobs, wish.include_usage, n_prompts)
                await _stream(feed_, exchange, chunks, wish)
            else:
                said = await whole_answers(feed_, wish.logprobs)
                answer = completions.whole(head, said, wish.logprobs, echoes, n_prompts)
                await exchange.send(json_answer(200, answer))

    def _generations(self, request: Request, exchange: Exchange, origin: Origin, wish: Wish) -> Any:
        server = self._server
        return generations(
            server.bus, server.service, self._clients, request, exchange, origin, wish.commands
        )

    # ---- embeddings

    async def _embeddings(self, request: Request, exchange: Exchange) -> None:
        data = await body_of_request(request)
        command, in_base64 = wishes.embedding(data)
        model = await answering(self._server.service, data.get("model"))
        info = self._server.state.model
        if (wanted := data.get("dimensions")) is not None and info is not None and wanted != info.n_embd:
            raise Refused(400, "invalid_value", f"dimensions: this model gives {info.n_embd}", "dimensions")
        client = self._clients.connect(feed.client_name(request), "embeddings", grant=request.grant)
        results: list[dict[str, Any]] = []
        try:
            await self._server.service.execute(client, command, request.received_t, results.append)
        finally:
            self._clients.disconnect(client, exchange.end_reason or "closed")
        # in a thread: many numbers take a while to be written
        await exchange.send(await asyncio.to_thread(_embeddings_answer, results[0], model, in_base64))


async def answering(service: Service, wanted: Any) -> str:
    """The id of the model that answers. Any name means the loaded one, but not that of another model
    in the library: whoever names that wants just that. Raises Refused.
    """
    loaded = service.supervisor.model_id
    if wanted is not None and not isinstance(wanted, str):
        raise Refused(400, "invalid_type", "model: a name", "model")
    if wanted and wanted != loaded:
        try:
            other = await service.find_model(wanted)
        except TokenglassError:
            other = {"id": loaded}
        if other["id"] != loaded:
            message = f"the model {wanted!r} isn't loaded, but {loaded or 'none'} is"
            raise Refused(404, "model_not_found", f"{message}; load it in the app", "model")
    return loaded or ""


def _embeddings_answer(result: dict[str, Any], model: str, in_base64: bool) -> Answer:
    told = [
        {"object": "embedding", "index": i, "embedding": _base64(numbers) if in_base64 else numbers}
        for i, numbers in enumerate(result["embeddings"])
    ]
    n = result["prompt_tokens"]
    used = {"prompt_tokens": n, "total_tokens": n}
    return json_answer(
        200, {"object": "list", "data": told, "model": result["model"] or model, "usage": used}
    )


def _base64(numbers: list[float]) -> str:
    """Little-endian 32-bit floats."""
    packed = array.array("f", numbers)
    if sys.byteorder == "big":
        packed.byteswap()
    return base64.b64encode(packed.tobytes()).decode("ascii")


async def body_of_request(request: Request) -> dict[str, Any]:
    """The JSON object in a body. Raises TokenglassError `invalid_json`."""
    try:
        text = request.body.decode("utf-8")
    except UnicodeDecodeError:
        raise TokenglassError("invalid_json", "the body isn't UTF-8") from None
    return await protocol.decode_aside(text)


def _head(prefix: str, started: Feed, model: str) -> dict[str, Any]:
    """What stands in every part of an answer; its id is the first generation's."""
    return {
        "id": f"{prefix}-{started.first_id.removeprefix('gen_')}",
        "created": feed.unix_now(),
        "model": model,
        "system_fingerprint": f"tokenglass-{VERSION}",
    }


async def _stream(
    events: Feed, exchange: Exchange, chunks: chat.Chunks | completions.Chunks, wish: Wish
) -> None:
    """Write a stream of chunks. It begins with the first slot, so that a prompt that can't be taken still
    gets a status of its own; what fails later is told in the stream.
    """
    transcripts = [Transcript() for _ in wish.commands]
    async for batch in events.batches():
        frames: list[bytes] = []
        failed = False
        for choice, event in batch:
            transcripts[choice].take(event, keep_tokens=False)
            told = [answers.sse(chunk) for chunk in chunks.of(choice, event)]
            if (error := chunks.failure(choice, event)) is not None:
                if not exchange.started and not frames:
                    raise TokenglassError.of(error)
                frames.append(answers.sse(body_of(error)))
                failed = True
                break
            frames += told
        if not exchange.started and (
            frames or any(isinstance(event, GenerationStarted) for _, event in batch)
        ):
            await exchange.start(EVENT_STREAM)
        if frames:
            await exchange.write(b"".join(frames))
        if failed:
            break
    else:
        if wish.include_usage:
            await exchange.write(answers.sse(chunks.usage(transcripts)))
    await exchange.write(answers.DONE)
    await exchange.end()
