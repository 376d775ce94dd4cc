"""`tokenglass bench`: all sides really run, and the figures are what they are called."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Condition, Thread
from typing import Any, ClassVar

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from api import cli
from api.bench import delay, followers, latency, llamaserver, machine, options, parts, report, transports
from api.bench.latency import _part
from api.bench.samples import Run, Sample, interval, percentiles, ratio
from api.bench.sides import Child
from api.bench.wires import Http, Line, Live, Traffic, Wire
from engine.errors import TokenglassError
from engine.types import SamplingParams

SMALL = ["--synthetic", "1M", "--vocab", "512", "--pairs", "1", "--tokens", "12", "--subscribers", "1"]


def bench(home: Path, *arguments: str) -> int:
    return cli.main(["bench", "--home", str(home), *SMALL, *arguments])


@pytest.mark.real
@pytest.mark.timeout(600)
def test_every_part_measures_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(parts, "AT_ONCE", (1, 3))
    monkeypatch.setattr(parts, "PROMPTS", (64, 256))
    monkeypatch.setattr(parts, "CONVERSATION", 300)
    monkeypatch.setattr(latency, "LONG_PROMPT", 200)
    monkeypatch.setattr(latency, "UNLOADED", 30)
    monkeypatch.setattr(latency, "PACE", 2000.0)
    monkeypatch.setattr(transports, "TOKENS", 12)
    monkeypatch.setattr(transports, "PERIOD_S", 0.05)
    monkeypatch.setattr(transports, "ROUND_TRIPS_MS", (0, 60))
    assert bench(tmp_path, "--json") == 0
    result = json.loads(capsys.readouterr().out)
    found = result["parts"]
    left_out = {note.split()[0] for note in result["notes"] if "left out" in note}
    assert left_out <= {"lookup"}
    assert {name.split()[0] for name in found} == {*options.PARTS, "load", "delivery"} - {
        "latency"
    } - left_out
    for name in ("single", "batch 1", "batch 3", "prompt 64", "prompt 256"):
        assert list(found[name]["sides"]) == ["bare", "engine", "app"], name
        assert len(found[name]["pairs"]) == 1
        for figures in found[name]["sides"].values():
            assert figures["tokens_per_second"]["median"] > 0
    for name, n in (("prompt 64", 64), ("prompt 256", 256)):
        assert found[name]["sides"]["app"]["cached_tokens"] < n / 10
    assert found["turns"]["sides"]["app 2"]["cached_tokens"] > 200
    assert found["single"]["sides"]["app"]["app_cpu_us_per_token"] > 0
    assert list(found["subscribers"]["sides"]) == ["bare", "app 0", "app 1", "app 10"]
    assert found["load"]["sides"]["loaded"]["p99_to_unloaded"]["median"] > 0
    assert found["delivery"]["sides"]["app"]["delivery"]["p50_ms"] > 0
    check_transports(found["transports 0"]["sides"], 0)
    check_transports(found["transports 60"]["sides"], 60)
    text = report.report(result)
    assert result["model"] in text
    assert "3 generations at once" in text
    assert "on a GPU" not in text
    assert "9 layers on a GPU (card, CPU)\n" in report.report(
        result | {"n_gpu_layers": 9, "devices": ["card", "CPU"]}
    )
    assert "One short answer over the network, 60 ms there and back" in text


def check_transports(sides: dict[str, Any], round_trip_ms: float) -> None:
    """Nothing comes sooner than its round trips take: those of the handshakes, and one of the question."""
    trips = {"live": 1, "live new": 3, "sse": 1, "sse new": 2, "post": 1, "post new": 2}
    trips |= {"poll": 2, "poll new": 6}
    assert sides.keys() == trips.keys()
    for name, figures in sides.items():
        least = trips[name] * round_trip_ms + (50 if name.startswith("poll") else 0)
        assert least < figures["first_text_ms"]["median"] <= figures["whole_ms"]["median"], name
        assert figures["app_cpu_us_per_token"]["median"] > 0, name
        assert figures["client_cpu_us_per_token"]["median"] > 0, name
    for name, n in (("live", 0.5), ("sse", 0.5), ("post", 0.5), ("poll", 0.5), ("poll new", 2.5)):
        if "stop_ms" in sides[name]:  # a busy machine may let an answer end by itself before
            assert n * round_trip_ms < sides[name]["stop_ms"]["median"], name
    sent, received = (
        {name: figures[f"{way}_bytes_per_token"]["median"] for name, figures in sides.items()}
        for way in ("sent", "received")
    )
    assert 0 < sent["live"] < sent["live new"]  # the handshake
    assert 0 < received["post"] < received["sse"]


@pytest.mark.real
def test_the_starter_model_and_other_settings(
    tmp_path: Path, starter_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["bench", "--home", str(tmp_path), "--model", str(starter_model), "--usual-sampling"]
    assert (
        cli.main([*arguments, "--what", "single", "--pairs", "2", "--tokens", "16", "--subscribers", "0"])
        == 0
    )
    said = capsys.readouterr()
    assert "One generation (0 further subscribers" in said.out
    assert "usual sampling" in said.out
    assert "single" in said.err


@pytest.mark.parametrize(
    "arguments",
    [
        ["--model", "fake:"],
        ["--model", "missing.gguf"],
        ["--synthetic", "huge"],
        ["--synthetic", "1M", "--model", "starter"],
        ["--synthetic", "1M", "--quantization", "Q9"],
        ["--llama-server", "no-such-program"],
    ],
)
def test_what_cannot_be_measured_is_said(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["bench", "--home", str(tmp_path), *arguments]) == 1
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert "Traceback" not in message


def test_unknown_parts_are_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", "--what", "single,everything"]) == 2
    assert "'everything' is none of single" in capsys.readouterr().err


def children_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


@pytest.mark.real
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_prints_what_there_is_and_leaves_nobody(tmp_path: Path, number: signal.Signals) -> None:
    command = [sys.executable, "-m", "desktop", "bench", "--home", str(tmp_path), *SMALL]
    command += ["--pairs", "1000", "--what", "single", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "single: pair 3 of" in line:
                break
        children = children_of(process)
        assert len(children) >= 4
        process.send_signal(number)
        out, rest = process.communicate(timeout=200)
    assert process.returncode == 130
    assert "Traceback" not in rest
    result = json.loads(out)
    assert 2 <= len(result["parts"]["single"]["pairs"]) < 1000
    gone, alive = psutil.wait_procs(children, timeout=100)
    assert len(gone) == len(children)
    assert not alive


# ---- llama-server, without it


class FakeServer(BaseHTTPRequestHandler):
    """Speaks as llama-server does: `/health`, and a streamed `/completion`."""

    protocol_version = "HTTP/1.1"
    asked: ClassVar[list[dict[str, Any]]] = []
    waits: ClassVar[Sequence[Callable[[int], None]]] = ()
    """Called before a token is sent, with its index."""

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        body = b'{"status":"ok"}'
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append(body)
        if body["prompt"] == "refuse":
            self.send_error(400)
            return
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for i in range(body["n_predict"]):
            for wait in self.waits:
                wait(i)
            self._piece(f'data: {{"content":"w{i}","tokens":[{i}],"stop":false}}\n\n'.encode())
        timings = {"cache_n": 3, "predicted_per_second": 99.0}
        last = {
            "content": "",
            "tokens": [],
            "stop": True,
            "tokens_predicted": body["n_predict"],
            "timings": timings,
        }
        whole = f"data: {json.dumps(last)}\n\n".encode()
        self._piece(whole[:20])  # an event may come in two pieces
        self._piece(whole[20:])
        self.wfile.write(b"0\r\n\r\n")

    def _piece(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.flush()


@pytest.fixture
def fake_server() -> Iterator[int]:
    FakeServer.asked.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), FakeServer) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


class Looks:
    """A client's clock: it looks at it once before a request, and once for each piece that it has read."""

    def __init__(self) -> None:
        self.n = 0
        self._more = Condition()

    def monotonic(self) -> float:
        with self._more:
            now = time.monotonic()
            self.n += 1
            self._more.notify_all()
        return now

    def until(self, n: int) -> None:
        with self._more:
            assert self._more.wait_for(lambda: self.n >= n, 100)


def test_llama_server_is_read_as_it_streams(fake_server: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each next token is sent a while after the one before was read: so late come all their times."""
    side = llamaserver.LlamaServerSide(fake_server, SamplingParams(temperature=0))
    looks = Looks()

    def wait_for_the_others(i: int) -> None:
        looks.until(3 * (1 + i))
        time.sleep(0.01)

    async def ask() -> Sample:
        assert await side.healthy()
        monkeypatch.setattr(FakeServer, "waits", (wait_for_the_others,))
        monkeypatch.setattr(llamaserver, "time", looks)
        return await side.run(["one", "two", "three"], 5)

    sample = asyncio.run(ask())
    assert [run.n_tokens for run in sample.runs] == [5, 5, 5]
    assert [run.text for run in sample.runs] == ["w0w1w2w3w4"] * 3
    assert all(run.cached_tokens == 3 and len(run.times) == 5 for run in sample.runs)
    assert min(sample.gaps_s) >= 0.01
    assert {body["prompt"] for body in FakeServer.asked} == {"one", "two", "three"}
    assert all(body["ignore_eos"] and body["stream"] and body["top_k"] == 1 for body in FakeServer.asked)


def test_llama_server_that_refuses_or_is_gone(fake_server: int) -> None:
    side = llamaserver.LlamaServerSide(fake_server, SamplingParams())
    with pytest.raises(TokenglassError, match="refuses"):
        asyncio.run(side.run(["refuse"], 5))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        assert not asyncio.run(llamaserver.LlamaServerSide(free.getsockname()[1], SamplingParams()).healthy())


@pytest.mark.real
def test_llama_server_that_does_not_start_says_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    program = tmp_path / "llama-server"
    program.write_text("#!/bin/sh\necho 'no room for the model' >&2\nexit 1\n")
    program.chmod(0o755)
    assert bench(tmp_path, "--what", "single", "--llama-server", str(program)) == 1
    assert "llama-server did not start: no room for the model" in capsys.readouterr().err


@pytest.mark.real
def test_llama_server_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    program = os.environ.get("TOKENGLASS_LLAMA_SERVER")
    if not program:
        pytest.skip("TOKENGLASS_LLAMA_SERVER names no llama-server")
    assert bench(tmp_path, "--what", "single,turns", "--llama-server", program, "--json") == 0
    found = json.loads(capsys.readouterr().out)["parts"]
    assert found["single"]["sides"]["llama-server"]["own_tokens_per_second"] > 0
    assert found["turns"]["sides"]["llama-server 2"]["cached_tokens"] > 1900


# ---- transports: the line, and the clients


Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def connected(port: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


@asynccontextmanager
async def serving(handle: Handler) -> AsyncIterator[int]:
    """A server on any port, which nobody is left of at the end."""
    writers: list[asyncio.StreamWriter] = []

    async def keep(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        await handle(reader, writer)

    async with await asyncio.start_server(keep, "127.0.0.1", 0) as server:
        try:
            yield server.sockets[0].getsockname()[1]
        finally:
            for writer in writers:
                writer.close()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()


async def echoing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(1 << 16):
        writer.write(data)
    writer.close()


def test_a_line_delays_both_ways_and_the_handshake() -> None:
    round_trip = 0.1

    async def ask() -> tuple[float, float]:
        async with serving(echoing) as port, delay.line(port, round_trip) as begin:
            start = time.monotonic()
            async with connected(begin) as (reader, writer):
                writer.write(b"one")
                assert await reader.readexactly(3) == b"one"
                opened = time.monotonic()
                writer.write(b"two")
                assert await reader.readexactly(3) == b"two"
                later = time.monotonic()
        return opened - start, later - opened

    first, second = asyncio.run(ask())
    assert first >= 2 * round_trip
    assert second >= round_trip


def test_a_line_keeps_order_and_holds_nothing_up() -> None:
    one_way, pieces = 1.0, [os.urandom(random.Random(i).randint(1, 20_000)) for i in range(100)]

    async def ask() -> tuple[bytes, float]:
        async with serving(echoing) as port, delay.line(port, 2 * one_way) as begin:
            start = time.monotonic()
            async with connected(begin) as (reader, writer):
                for piece in pieces:
                    writer.write(piece)
                    await asyncio.sleep(0.001)
                data = await reader.readexactly(sum(map(len, pieces)))
        return data, time.monotonic() - start

    data, took = asyncio.run(ask())
    assert data == b"".join(pieces)
    assert took < len(pieces) * one_way / 2  # one after the other it would be 100 s


def test_a_line_passes_the_end_on() -> None:
    one_way = 0.1

    async def ask() -> float:
        ended = asyncio.get_running_loop().create_future()

        async def watch(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            assert await reader.read() == b"last words"
            ended.set_result(time.monotonic())
            writer.close()

        async with serving(watch) as port, delay.line(port, 2 * one_way) as begin:
            async with connected(begin) as (_, writer):
                await asyncio.sleep(3 * one_way)
                writer.write(b"last words")
                left = time.monotonic()
            return float(await ended) - left

    assert asyncio.run(ask()) >= one_way


def test_a_line_to_nobody_ends() -> None:
    async def ask() -> bytes:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
            async with delay.line(port, 0.01) as begin, connected(begin) as (reader, _):
                try:
                    return await reader.read()
                except ConnectionError:
                    return b""

    assert asyncio.run(ask()) == b""


def test_a_connection_can_be_closed_by_somebody_after_one_who_was_stopped_at_it() -> None:
    async def ask() -> None:
        released = asyncio.Event()

        async def hold(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await released.wait()
            writer.transport.abort()

        async with serving(hold) as port:
            wire = await Wire.open(Line("ws://127.0.0.1:9/v1/live", "secret", port), Traffic())
            wire.send(bytes(50_000_000))
            first = asyncio.create_task(wire.close())
            await asyncio.sleep(0.01)
            assert not first.done()
            first.cancel()
            await asyncio.gather(first, return_exceptions=True)
            released.set()
            await wire.close()

    asyncio.run(ask())


@pytest.mark.parametrize("broken", [False, True])
def test_every_byte_over_http_is_counted(broken: bool) -> None:
    answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n3\r\ntwo\r\n"
    answer += b"" if broken else b"0\r\n\r\n"

    async def ask() -> tuple[bytes, Traffic, bytes]:
        came = bytearray()

        async def give(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while not came.endswith(b"}"):
                came.extend(await reader.read(1 << 16))
            writer.write(answer[:40])
            await asyncio.sleep(0.01)
            writer.write(answer[40:])
            writer.close()

        traffic = Traffic()
        async with serving(give) as port:
            http = await Http.open(Line("ws://127.0.0.1:9/v1/live", "secret", port), traffic)
            try:
                pieces = [piece async for piece in http.request("POST", "/x", {"prompt": "ä"})]
            finally:
                await http.close()
        return b"".join(pieces), traffic, bytes(came)

    if broken:
        with pytest.raises(TokenglassError, match="broke off"):
            asyncio.run(ask())
        return
    body, traffic, came = asyncio.run(ask())
    assert body == b"onetwo"
    assert (traffic.sent, traffic.received) == (len(came), len(answer))
    assert b"Host: 127.0.0.1:9\r\n" in came
    assert b"Authorization: Bearer secret\r\n" in came


def test_a_stream_that_is_refused_or_ends_is_told() -> None:
    refusal = b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n"

    async def ask(answer: bytes) -> None:
        async def give(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
            writer.close()

        async with serving(give) as port:
            await Live.open(Line(f"ws://127.0.0.1:{port}/v1/live", "wrong", port), Traffic())

    with pytest.raises(TokenglassError, match=r"refused.*401"):
        asyncio.run(ask(refusal))
    with pytest.raises(TokenglassError, match=r"refused|ended"):
        asyncio.run(ask(b""))


# ---- what is made of the samples


def test_too_few_messages_tell_no_rate_by_when_they_come() -> None:
    """Four tokens sampled a millisecond apart, of which three came in one message right after the first."""
    arrived = [1.01, 1.0101, 1.0101, 1.0101]
    run = Run(0.9, arrived, delivery_s=[t - 1 - i / 1000 for i, t in enumerate(arrived)])
    assert run.n_messages == 2
    assert Sample([run]).tokens_per_second == pytest.approx(1000)  # not 30,000
    assert Sample([run]).first_token_s == pytest.approx(0.11)
    told = Sample([Run(0.9, arrived)], own_tokens_per_second=900.0)
    assert told.tokens_per_second == 900
    many = Run(0.0, [i / 100 for i in range(50)], delivery_s=[0.5 - i / 1000 for i in range(50)])
    assert Sample([many]).tokens_per_second == pytest.approx(100)
    both = report.doubts({"single": [{"bare": Sample([many]), "app": Sample([run])}]})
    assert both == ["single, app: a run came in 2 messages: too few tokens to tell their rate"]
    assert report.doubts({"prompt 512": [{"app": Sample([run])}]}) == []  # no rate is shown there


@pytest.mark.real
def test_few_tokens_of_a_tiny_model_are_called_few(
    tmp_path: Path, starter_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["bench", "--home", str(tmp_path), "--model", str(starter_model), "--what", "single"]
    assert cli.main([*arguments, "--pairs", "3", "--tokens", "4", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert {note.partition(":")[0] for note in result["notes"] if "too few tokens" in note} == {
        "single, bare loop",
        "single, engine alone",
        "single, app",
    }
    assert "too few tokens to tell their rate" in report.report(result)


def test_a_run_is_counted_from_its_first_token() -> None:
    sample = Sample([Run(1.0, [1.5, 1.6, 1.7])], app_cpu_s=0.003)
    assert sample.first_token_s == pytest.approx(0.5)
    assert sample.tokens_per_second == pytest.approx(10)
    assert sample.figures()["app_cpu_us_per_token"] == pytest.approx(1000)


def test_several_are_counted_while_all_of_them_run() -> None:
    slow, late = Run(0.0, [1.0, 2.0, 3.0, 4.0, 5.0]), Run(0.0, [1.5, 2.5, 3.5, 4.5])
    assert Sample([slow, late]).tokens_per_second == pytest.approx(6 / 3)
    apart = Run(0.0, [5.0, 6.0, 7.0])
    assert Sample([slow, apart]).tokens_per_second == pytest.approx(6 / 6)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=40))
def test_the_interval_holds_the_median_and_nothing_beyond_the_values(values: list[float]) -> None:
    median, low, high = interval(values)
    assert min(values) <= low <= median <= high <= max(values)


def test_the_interval_is_that_of_order_statistics() -> None:
    assert interval(range(1, 16)) == (8, 4, 12)  # 96.5 % by the binomial distribution
    assert interval(range(1, 6)) == (3, 1, 5)
    assert interval(range(1, 31)) == (15.5, 10, 21)


def test_the_interval_covers_the_true_median_as_often_as_it_says() -> None:
    rng = random.Random(3)
    held = 0
    for _ in range(1000):
        _, low, high = interval([rng.expovariate(1) for _ in range(15)])
        held += low <= math.log(2) <= high
    assert 950 <= held <= 980


def test_ratios_are_taken_within_pairs() -> None:
    def sample(rate: float) -> Sample:
        return Sample([Run(0.0, [1.0, 1.0 + 1 / rate])])

    pairs = [{"a": sample(100), "b": sample(50)}, {"a": sample(10), "b": sample(5)}, {"b": sample(1)}]
    found = ratio(pairs, "a", "b")
    assert found is not None
    assert found["median"] == pytest.approx(2)
    assert ratio(pairs, "a", "c") is None


def test_percentiles() -> None:
    assert percentiles([i / 1000 for i in range(100)]) == {
        "p50_ms": pytest.approx(50),
        "p99_ms": pytest.approx(99),
    }
    assert percentiles([]) == {"p50_ms": None, "p99_ms": None}


def test_the_time_beside_a_prompt_is_all_of_that_time() -> None:
    run = _part([1.0, 2.0, 3.0, 7.0, 8.0, 9.0], 3.5, 7.5)
    assert run.times == [3.0, 7.0, 8.0]


def test_the_order_changes_from_round_to_round() -> None:
    sides: dict[str, Any] = dict.fromkeys("abcd")
    assert len({tuple(name for name, _ in parts.shuffled(sides, i)) for i in range(15)}) > 5


# ---- the machine, and the subscribers


def test_the_machine_is_described() -> None:
    about = machine.Machine().about()
    assert about["cores"] >= 1
    assert about["cpu"]
    json.dumps(about)


def test_cpu_time_is_that_of_all_threads() -> None:
    code = "import threading,time\ndef work():\n while time.thread_time()<0.3: pass\n time.sleep(60)\n"
    code += "threading.Thread(target=work, daemon=True).start()\nprint(flush=True)\ntime.sleep(60)\n"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        deadline = time.monotonic() + 60
        while machine.cpu_seconds(process.pid) < 0.3 and time.monotonic() < deadline:
            time.sleep(0.05)
        spent = machine.cpu_seconds(process.pid)
        process.kill()
    assert 0.3 <= spent < 5


def frame(opcode: int, payload: bytes) -> bytes:
    size = len(payload)
    head = bytes((0x80 | opcode, size if size < 126 else 126 if size < 1 << 16 else 127))
    if size >= 126:
        head += size.to_bytes(2 if size < 1 << 16 else 8, "big")
    return head + payload


@given(
    st.lists(st.tuples(st.sampled_from([1, 9]), st.integers(0, 70_000)), max_size=8),
    st.lists(st.integers(1, 5000), max_size=30),
)
def test_followers_count_whole_frames_however_they_come(
    frames: list[tuple[int, int]], cuts: list[int]
) -> None:
    class Quiet(followers.Follower):
        def __init__(self) -> None:
            self.n_frames = self._skip = 0
            self._buffer = b""
            self.pongs: list[bytes] = []

        def _send(self, opcode: int, payload: bytes) -> None:
            assert opcode == 0xA
            self.pongs.append(payload)

    sent = [(opcode, bytes(size % 126 if opcode == 9 else size)) for opcode, size in frames]
    data = b"".join(frame(opcode, payload) for opcode, payload in sent)
    follower = Quiet()
    for cut in [*cuts, len(data)]:
        follower._take(data[:cut])
        data = data[cut:]
    assert follower.n_frames == sum(opcode == 1 for opcode, _ in sent)
    assert follower.pongs == [payload for opcode, payload in sent if opcode == 9]


def test_a_process_of_the_bench_that_ends_is_told() -> None:
    async def ask() -> None:
        child = Child(followers.serve)
        try:
            assert await child.ask(None) == []
            assert "refused" in str(await child.ask(("ws://127.0.0.1:9/v1/live", "t", 1))).lower()
            child._process.kill()
            with pytest.raises(TokenglassError, match="ended"):
                await child.answer()
        finally:
            child.close()

    asyncio.run(ask())
