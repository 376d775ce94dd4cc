"""llama.cpp's own server as a side of the bench: its program is given, its streamed `/completion` is read."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

from api.bench.samples import Run, Sample
from api.bench.sides import RUN_TIMEOUT_S, START_TIMEOUT_S, child_process
from engine.errors import TokenglassError
from engine.types import SamplingParams, WorkerConfig

HOST = "127.0.0.1"


class _Connection:
    """One HTTP connection for one request; opened before the clock starts."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def request(self, method: str, path: str, body: bytes = b"") -> AsyncIterator[tuple[float, bytes]]:
        """Send it and yield the answer's body as it comes, each piece with its time.

        Raises TokenglassError where the status isn't 200.
        """
        head = f"{method} {path} HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: application/json\r\n"
        self._writer.write(f"{head}Connection: close\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        await self._writer.drain()
        status = await self._reader.readline()
        length = None
        while (line := await self._reader.readline()).strip():
            name, _, value = line.decode("latin-1").partition(":")
            if name.lower() == "content-length":
                length = int(value)
        pieces: list[bytes] = []
        async for t, piece in self._body(length):
            if b" 200 " in status:
                yield t, piece
            else:
                pieces.append(piece)
        self._writer.close()
        if b" 200 " not in status:
            text = b"".join(pieces)[:300].decode("utf-8", "replace")
            raise TokenglassError("internal", f"llama-server refuses: {status.decode().strip()} {text}")

    async def _body(self, length: int | None) -> AsyncIterator[tuple[float, bytes]]:
        if length is not None:
            yield time.monotonic(), await self._reader.readexactly(length)
            return
        while size := int((await self._reader.readline()).split(b";")[0] or b"0", 16):
            piece = await self._reader.readexactly(size)
            yield time.monotonic(), piece
            await self._reader.readexactly(2)
        await self._reader.readline()


class LlamaServerSide:
    """A running llama-server."""

    def __init__(self, port: int, sampling: SamplingParams) -> None:
        self._port = port
        self.sampling = sampling

    async def _connect(self) -> _Connection:
        return _Connection(*await asyncio.open_connection(HOST, self._port, limit=1 << 22))

    async def healthy(self) -> bool:
        """Whether it answers that its model is loaded."""
        try:
            connection = await self._connect()
            async for _ in connection.request("GET", "/health"):
                pass
        except (OSError, TokenglassError, ValueError, asyncio.IncompleteReadError):
            return False
        return True

    async def run(self, prompts: Sequence[str], n_tokens: int) -> Sample:
        connections = [await self._connect() for _ in prompts]
        async with asyncio.timeout(RUN_TIMEOUT_S):
            pairs = zip(connections, prompts, strict=True)
            answers = await asyncio.gather(*(self._generate(one, text, n_tokens) for one, text in pairs))
        runs = [run for run, _ in answers]
        own = answers[0][1].get("predicted_per_second") if len(answers) == 1 else None
        return Sample(runs, own_tokens_per_second=own)

    async def _generate(
        self, connection: _Connection, prompt: str, n_tokens: int
    ) -> tuple[Run, dict[str, Any]]:
        """One generation, and what the server's own timings say of it."""
        body = json.dumps(
            {
                "prompt": prompt,
                "n_predict": n_tokens,
                "ignore_eos": True,
                "stream": True,
                "return_tokens": True,
                "cache_prompt": True,
                **sampling_of(self.sampling),
            }
        ).encode()
        start = time.monotonic()
        try:
            pieces = [piece async for piece in connection.request("POST", "/completion", body)]
        except (OSError, ValueError, asyncio.IncompleteReadError) as error:
            raise TokenglassError("internal", f"llama-server's answer broke off: {error}") from None
        return read_stream(start, pieces)


def sampling_of(params: SamplingParams) -> dict[str, Any]:
    """The same sampling as ours, in the way that costs the server least: no sampler that isn't needed."""
    if params.temperature == 0:
        return {"temperature": 0, "top_k": 1, "samplers": ["top_k"]}
    return {
        "temperature": params.temperature,
        "top_k": params.top_k,
        "top_p": params.top_p,
        "min_p": params.min_p,
        "seed": params.seed,
        "samplers": ["top_k", "top_p", "min_p", "temperature"],
    }


def read_stream(start: float, pieces: Sequence[tuple[float, bytes]]) -> tuple[Run, dict[str, Any]]:
    """The run that a streamed answer was, read when it is over so that reading costs no time in it."""
    run = Run(start, [])
    timings: dict[str, Any] = {}
    text = b""
    for t, piece in pieces:
        text += piece
        *events, text = text.split(b"\n\n")
        for event in events:
            if not event.startswith(b"data: {"):
                continue
            data = json.loads(event.removeprefix(b"data: "))
            run.times += [t] * len(data.get("tokens", ()))
            run.text += data.get("content", "")
            if data.get("stop"):
                timings = data.get("timings", {})
                run.n_tokens = int(data.get("tokens_predicted", 0))
                run.cached_tokens = timings.get("cache_n")
    run.n_tokens = max(run.n_tokens, len(run.times))
    if len(run.times) < 2:
        raise TokenglassError("internal", "llama-server brought too few tokens to be measured")
    return run, timings


@contextlib.asynccontextmanager
async def llama_server(
    program: Path, config: WorkerConfig, sampling: SamplingParams
) -> AsyncIterator[LlamaServerSide]:
    """Start it with the app's settings: model, context, slots, a cache for each, batch, threads."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port = probe.getsockname()[1]
    command = [str(program), "--model", config.model_path, "--host", HOST, "--port", str(port)]
    command += ["--ctx-size", str(config.n_ctx * config.n_slots), "--parallel", str(config.n_slots)]
    command += ["--no-kv-unified", "--batch-size", str(config.n_batch), "--ubatch-size", str(config.n_batch)]
    command += ["--threads", str(config.n_threads), "--threads-batch", str(config.n_threads)]
    command += ["--cache-ram", "0"]  # it would copy idle slots' caches away before each run
    with (
        tempfile.TemporaryFile() as log,
        child_process(command, dict(os.environ), log) as process,
    ):
        side = LlamaServerSide(port, sampling)
        deadline = time.monotonic() + START_TIMEOUT_S
        while not await side.healthy():
            if process.poll() is not None or time.monotonic() > deadline:
                log.seek(0)
                last = log.read()[-2000:].decode("utf-8", "replace").strip().splitlines() or [
                    "it said nothing"
                ]
                raise TokenglassError("engine_lost", f"llama-server did not start: {last[-1]}")
            await asyncio.sleep(0.1)
        yield side
