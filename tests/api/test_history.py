import asyncio
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from api import history as module
from api.history import History
from engine.errors import ErrorInfo, TokenglassError
from engine.events import GenerationFinished
from engine.types import FinishReason, Timings, ToolCall, Usage

SOAK = os.environ.get("TOKENGLASS_SOAK") == "1"


def finished(
    generation_id: str, text: str, reason: FinishReason = "stop", error: ErrorInfo | None = None, **more: Any
) -> GenerationFinished:
    return GenerationFinished(
        generation_id=generation_id,
        finish_reason=reason,
        text=text,
        usage=Usage(prompt_tokens=3, cached_tokens=1, completion_tokens=2),
        timings=Timings(ttft_ms=1.5),
        error=error,
        **more,
    )


def run(path: Path | None, body: Callable[[History], Awaitable[None]]) -> None:
    async def main() -> None:
        history = await History.open(path)
        try:
            await body(history)
        finally:
            await history.close()

    asyncio.run(main())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "history.db"


def test_a_turn_from_question_to_answer(path: Path) -> None:
    async def first(history: History) -> None:
        conversation = await history.create(system="Be brief.")
        user, answer = await history.add_turn(conversation["id"], "Hello\nyou", "g1", "starter", "live")
        assert (user["role"], user["content"], user["status"]) == ("user", "Hello\nyou", "complete")
        assert (answer["status"], answer["content"], answer["generation_id"]) == ("streaming", "", "g1")
        assert (answer["parent_id"], answer["origin"], answer["model"]) == (user["id"], "live", "starter")
        prompt = await history.prompt_messages(user["id"])
        assert [(m.role, m.content) for m in prompt] == [("system", "Be brief."), ("user", "Hello\nyou")]
        assert await history.prompt_messages(answer["id"]) == prompt
        history.append_text("g1", "Hi ")
        history.append_text("g1", "there")
        history.append_text("g1", "hmm", reasoning=True)
        seen = await history.message(answer["id"])
        assert (seen["content"], seen["reasoning"]) == ("Hi there", "hmm")
        done = await history.finish(
            finished(
                "g1",
                "Hi there!",
                tool_calls=[ToolCall(id="t", name="clock", arguments="{}")],
                reasoning="hmm",
            )
        )
        assert done is not None
        assert (done["status"], done["content"], done["finish_reason"]) == ("complete", "Hi there!", "stop")
        assert done["usage"]["cached_tokens"] == 1
        assert done["timings"]["ttft_ms"] == 1.5
        assert done["tool_calls"] == [{"id": "t", "name": "clock", "arguments": "{}"}]

    async def second(history: History) -> None:
        (conversation,) = await history.list()
        assert (conversation["title"], conversation["message_count"]) == ("Hello", 2)
        assert (conversation["model"], conversation["system"]) == ("starter", "Be brief.")
        data = await history.get(conversation["id"])
        assert data["conversation"] == conversation
        assert [message["content"] for message in data["messages"]] == ["Hello\nyou", "Hi there!"]
        assert conversation["leaf"] == data["messages"][-1]["id"]

    run(path, first)
    run(path, second)


def test_variants_and_the_remembered_branch(path: Path) -> None:
    async def body(history: History) -> None:
        key = (await history.create("t", None))["id"]
        user, one = await history.add_turn(key, "q", "g1", "m")
        await history.finish(finished("g1", "one"))
        two = await history.add_variant(key, user["id"], "g2", "m")
        await history.finish(finished("g2", "two"))
        later, _ = await history.add_turn(key, "more", "g3", "m")
        await history.finish(finished("g3", "end"))

        async def texts(leaf: str | None = None) -> list[str]:
            return [message["content"] for message in (await history.get(key, leaf))["messages"]]

        assert await texts() == ["q", "two", "more", "end"]
        answer = (await history.get(key))["messages"][1]
        assert (answer["variants"], answer["variant"]) == ([one["id"], two["id"]], 1)
        assert await texts(one["id"]) == ["q", "one"]
        assert await texts() == ["q", "one"]
        assert [m.content for m in await history.prompt_messages(later["id"])] == ["q", "two", "more"]
        assert await texts(two["id"]) == ["q", "two", "more", "end"]
        assert await texts(one["id"]) == ["q", "one"]
        await history.add_turn(key, "other way", "g4", "m")
        assert await texts() == ["q", "one", "other way", ""]

    run(path, body)


def test_the_model_hears_its_own_thoughts_and_calls_again(path: Path) -> None:
    async def body(history: History) -> None:
        key = (await history.create())["id"]
        await history.add_turn(key, "q", "g1", "m")
        call = ToolCall(id="t", name="clock", arguments="{}")
        await history.finish(finished("g1", "one", tool_calls=[call], reasoning="hmm"))
        later, _ = await history.add_turn(key, "more", "g2", "m")
        question, answer, more = await history.prompt_messages(later["id"])
        assert (question.reasoning, more.reasoning) == (None, None)
        assert (answer.content, answer.reasoning, answer.tool_calls) == ("one", "hmm", [call])

    run(path, body)


def test_errors(path: Path) -> None:
    async def code(call: Awaitable[object]) -> str:
        with pytest.raises(TokenglassError) as caught:
            await call
        return caught.value.code

    async def body(history: History) -> None:
        key = (await history.create())["id"]
        other = (await history.create())["id"]
        user, answer = await history.add_turn(key, "q", "g1", "m")
        assert await code(history.add_turn(key, "again", "g2", "m")) == "bad_state"
        assert await code(history.add_variant(key, answer["id"], "g2", "m")) == "bad_state"
        assert await code(history.add_variant(other, user["id"], "g2", "m")) == "not_found"
        assert await code(history.get("nothing")) == "not_found"
        assert await code(history.get(other, leaf=user["id"])) == "not_found"
        assert await code(history.rename("nothing", "t")) == "not_found"
        assert await code(history.delete("nothing")) == "not_found"
        assert await code(history.restore(key)) == "not_found"
        assert await code(history.prompt_messages("nothing")) == "not_found"
        assert await code(history.add_turn(other, "q", "g1", "m")) == "storage"  # the id is taken
        assert (await history.get(other))["messages"] == []
        assert await history.finish(finished("nobody", "x")) is None
        await history.close()
        assert await code(history.list()) == "shutting_down"

    run(path, body)


@pytest.mark.parametrize(
    ("reason", "status"),
    (("stop", "complete"), ("length", "complete"), ("context_full", "complete"), ("cancelled", "cancelled")),
)
def test_how_an_answer_ends(path: Path, reason: FinishReason, status: str) -> None:
    async def body(history: History) -> None:
        key = (await history.create())["id"]
        await history.add_turn(key, "q", "g", "m")
        message = await history.finish(finished("g", "text", reason))
        assert message is not None
        assert (message["status"], message["finish_reason"]) == (status, reason)

    run(path, body)


def test_a_crash_report_without_text_keeps_what_was_streamed(path: Path) -> None:
    async def body(history: History) -> None:
        key = (await history.create())["id"]
        await history.add_turn(key, "q", "g", "m")
        history.append_text("g", "half an ans")
        lost = ErrorInfo(code="engine_lost", message="gone")
        message = await history.finish(finished("g", "", "error", lost))
        assert message is not None
        assert (message["status"], message["content"]) == ("error", "half an ans")
        assert message["error"]["code"] == "engine_lost"
        await history.add_turn(key, "go on", "g2", "m")

    run(path, body)


def test_delete_can_be_undone_until_closing(path: Path) -> None:
    keys: list[str] = []

    async def body(history: History) -> None:
        keys.extend([(await history.create("a", None))["id"], (await history.create("b", None))["id"]])
        for key in keys:
            await history.add_turn(key, "q " + key, "g" + key, "m")
            await history.delete(key)
        assert await history.list() == []
        assert await history.search("q") == []
        with pytest.raises(TokenglassError):
            await history.get(keys[0])
        await history.restore(keys[0])
        assert [entry["title"] for entry in await history.list()] == ["a"]

    async def again(history: History) -> None:
        assert [entry["id"] for entry in await history.list()] == keys[:1]
        with pytest.raises(TokenglassError):
            await history.restore(keys[1])

    run(path, body)
    run(path, again)
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT count(*) FROM message").fetchone()[0] == 2
    connection.close()


def test_list_order_and_pages(path: Path) -> None:
    async def body(history: History) -> None:
        keys = [(await history.create(str(number), None))["id"] for number in range(5)]
        await history.add_turn(keys[1], "q", "g", "m")
        order = [entry["title"] for entry in await history.list()]
        assert order == ["1", "4", "3", "2", "0"]
        assert [entry["title"] for entry in await history.list(2, 1)] == ["4", "3"]
        renamed = await history.rename(keys[0], "zero")
        assert renamed["title"] == "zero"
        assert [entry["title"] for entry in await history.list()][-1] == "zero"

    run(path, body)


@pytest.mark.parametrize(
    ("content", "title"),
    (
        ("short", "short"),
        ("\n\n  second line \nthird", "second line"),
        ("x" * 60, "x" * 60),
        ("x" * 61, "x" * 59 + "…"),
        ("  \n ", ""),
    ),
)
def test_titles(content: str, title: str) -> None:
    async def body(history: History) -> None:
        key = (await history.create())["id"]
        await history.add_turn(key, content, "g", "m")
        assert (await history.conversation(key))["title"] == title

    run(None, body)


def test_search(path: Path) -> None:
    async def body(history: History) -> None:
        one = (await history.create("Große Pläne", None))["id"]
        two = (await history.create("other", None))["id"]
        await history.add_turn(one, "what is a KV cache?", "g1", "m")
        await history.finish(finished("g1", "The memory of attention. " * 20 + "100% of it_"))
        await history.add_turn(two, "ЁЖИК in the fog", "g2", "m")

        async def found(query: str) -> list[str]:
            return [entry["id"] for entry in await history.search(query)]

        assert await found("GROSSE") == [one]
        assert await found("ёжик") == [two]
        assert await found("kv   CACHE") == [one]
        assert await found("cache fog") == []
        assert await found("100%") == [one]
        assert await found("it_") == [one]
        assert await found("itx") == []
        assert await found("'; DROP TABLE message; --") == []
        (hit,) = await history.search("100%")
        assert "100% of it_" in hit["match"]["snippet"]
        assert (await history.search("pläne"))[0]["match"] is None
        assert len(await history.search("e", limit=1)) == 1

    run(path, body)


@pytest.mark.parametrize(
    "text", ("nul \0 inside", "emoji 🦙 and \u202e", "lone \ud800 half", "x" * 1_000_000)
)
def test_any_text_comes_back(path: Path, text: str) -> None:
    async def body(history: History) -> None:
        clean = text.encode("utf-8", "replace").decode()
        key = (await history.create(text[:500], text[:500]))["id"]
        user, answer = await history.add_turn(key, text, "g", "m")
        assert user["content"] == clean
        history.append_text("g", text)
        history.append_text("g", text)
        assert (await history.message(answer["id"]))["content"] == clean * 2
        done = await history.finish(finished("g", text, reasoning=text))
        assert done is not None
        assert (done["content"], done["reasoning"]) == (clean, clean)
        assert (await history.prompt_messages(user["id"]))[-1].content == clean

    run(path, body)


def test_streamed_text_is_on_the_disk_soon(path: Path) -> None:
    async def body(history: History) -> None:
        key = (await history.create())["id"]
        await history.add_turn(key, "q", "g", "m")
        history.append_text("g", "streamed")
        deadline = time.monotonic() + 60
        text = ""
        while text != "streamed" and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
            with sqlite3.connect(path) as connection:
                text = connection.execute("SELECT content FROM message WHERE generation_id = 'g'").fetchone()[
                    0
                ]
            connection.close()
        assert text == "streamed"

    run(path, body)


def test_unfinished_answers_are_interrupted_at_closing_and_at_opening(path: Path) -> None:
    keys: list[str] = []

    async def first(history: History) -> None:
        keys.append((await history.create())["id"])
        await history.add_turn(keys[0], "q", "g", "m")
        history.append_text("g", "the last words")

    async def second(history: History) -> None:
        message = (await history.get(keys[0]))["messages"][-1]
        assert (message["status"], message["content"]) == ("interrupted", "the last words")
        await history.add_turn(keys[0], "go on", "g2", "m")

    run(path, first)
    run(path, second)


def test_in_memory_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    async def body(history: History) -> None:
        key = (await history.create())["id"]
        await history.add_turn(key, "q", "g", "m")
        assert len(await history.list()) == 1

    run(None, body)
    assert list(tmp_path.iterdir()) == []


def test_closing_ends_the_thread_and_is_repeatable(path: Path) -> None:
    async def body(history: History) -> None:
        history.append_text("unknown", "x")
        await history.close()
        history.append_text("g", "ignored")
        await history.close()

    run(path, body)
    for thread in threading.enumerate():
        if thread.name == "history-writer":
            thread.join(60)
            assert not thread.is_alive()


def test_many_at_once(path: Path) -> None:
    async def body(history: History) -> None:
        keys = await asyncio.gather(*(history.create(str(number), None) for number in range(20)))
        await asyncio.gather(
            *(history.add_turn(key["id"], "q", "g" + key["id"], "m") for key in keys),
            *(history.list() for _ in range(20)),
        )
        for key in keys:
            history.append_text("g" + key["id"], key["id"])
        done = await asyncio.gather(*(history.get(key["id"]) for key in keys))
        assert [data["messages"][1]["content"] for data in done] == [key["id"] for key in keys]

    run(path, body)


def limit_pages(history: History, pages: int) -> Awaitable[None]:
    """Make the database as full as a disk gets."""

    def action(store: Any) -> None:
        store.db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        store.db.execute(f"PRAGMA max_page_count = {pages}")

    return history._do(action)


def test_full_disk_loses_nothing_acknowledged(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY_S", 0.05)
    problems: list[str | None] = []

    async def until(count: int) -> None:
        deadline = time.monotonic() + 60
        while len(problems) < count and time.monotonic() < deadline:  # noqa: ASYNC110 - filled by a thread
            await asyncio.sleep(0.02)
        assert len(problems) == count

    async def body(history: History) -> None:
        history.on_problem = problems.append
        key = (await history.create("t", None))["id"]
        user, answer = await history.add_turn(key, "kept", "g", "m")
        await limit_pages(history, 1)
        with pytest.raises(TokenglassError, match="no space left"):
            await asyncio.gather(*(history.create("x" * 5000, None) for _ in range(50)))
        before = await history.list()
        history.append_text("g", "streamed " * 3000)
        await until(1)
        history.append_text("g", "and more")
        assert "no space" in str(problems[0])
        with pytest.raises(TokenglassError, match="no space left"):
            await history.finish(finished("g", "y" * 20_000))
        assert await history.list() == before
        assert (await history.message(user["id"]))["content"] == "kept"
        await limit_pages(history, 1_000_000)
        await until(2)
        assert problems[1] is None
        assert (await history.message(answer["id"]))["content"] == "streamed " * 3000 + "and more"
        done = await history.finish(finished("g", "the end"))
        assert done is not None
        assert done["content"] == "the end"

    run(path, body)


def test_a_really_full_disk(path: Path) -> None:
    """On a disk of 400 kB: typed errors, everything acknowledged is there afterwards."""
    program = """
import asyncio, sys
from pathlib import Path
from api.history import History
from engine.errors import TokenglassError

async def main():
    history = await History.open(Path(sys.argv[1]))
    done = []
    try:
        for number in range(500):
            done.append((await history.create(f"{number}" + "x" * 2000))["id"])
    except TokenglassError as error:
        print(error.code, error)
    assert 5 < len(done) < 500
    await history.close()
    history = await History.open(Path(sys.argv[1]))
    assert {entry["id"] for entry in await history.list(1000)} >= set(done)
    await history.close()
    print("all there")

asyncio.run(main())
"""
    script = 'mount -t tmpfs -o size=400k none "$1" || exit 77; exec "$2" -c "$3" "$1/history.db"'
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script, "sh", str(path.parent), sys.executable, program],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    if done.returncode in (1, 77) and not done.stdout and "Traceback" not in done.stderr:
        pytest.skip("mounts aren't allowed here")
    assert done.stdout.splitlines()[0].startswith("storage no space left"), done.stderr
    assert done.stdout.splitlines()[-1] == "all there", done.stderr


WRITER = """
import asyncio, random, sys
from pathlib import Path
from api.history import History
from engine.events import GenerationFinished
from engine.types import Timings, Usage

async def main():
    history = await History.open(Path(sys.argv[1]))
    key = (await history.create("k", None))["id"]
    print("C", key, flush=True)
    for turn in range(10_000):
        generation = f"{sys.argv[2]}-{turn}"
        user, answer = await history.add_turn(key, f"question {turn}", generation, "m")
        print("T", user["id"], answer["id"], turn, flush=True)
        text = ""
        for word in range(random.randint(1, 30)):
            piece = f"{turn}.{word} "
            text += piece
            history.append_text(generation, piece)
            if random.random() < 0.2:
                await asyncio.sleep(0.002)
            if random.random() < 0.05:
                await history.message(answer["id"])
                print("P", answer["id"], len(text), flush=True)
        await history.finish(GenerationFinished(
            generation_id=generation, finish_reason="stop", text=text, timings=Timings(),
            usage=Usage(prompt_tokens=0, cached_tokens=0, completion_tokens=0)))
        print("F", answer["id"], text, flush=True)

asyncio.run(main())
"""


@pytest.mark.timeout(1800 if SOAK else 600)
def test_nothing_acknowledged_is_lost_by_kill_9(path: Path) -> None:
    rounds = 300 if SOAK else 6
    seed = random.randrange(1 << 30)
    print("seed", seed)
    source = random.Random(seed)
    turns: dict[str, str] = {}  # message id: content
    ended: dict[str, str] = {}
    partial: dict[str, int] = {}
    interrupted = 0
    for number in range(rounds):
        child = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path), str(number)], stdout=subprocess.PIPE, text=True
        )
        assert child.stdout is not None
        killer = threading.Timer(source.uniform(0.3, 1.2), child.send_signal, (signal.SIGKILL,))
        begins = ("", "CTPF", "F")[number % 3]
        """Of the line after which the time runs; none: from the start. So some are ended on any machine."""
        if not begins:
            killer.start()
        answers: set[str] = set()
        for line in child.stdout:
            if line[:1] in begins and not killer.is_alive() and not killer.finished.is_set():
                killer.start()
            if not line.endswith("\n"):
                break
            kind, *words = line.rstrip("\n").split(" ", 2)
            if kind == "T":
                turns[words[0]] = "question " + words[1].split()[-1]
                answers.add(words[1].split()[0])
            elif kind == "P":
                partial[words[0]] = max(int(words[1]), partial.get(words[0], 0))
            elif kind == "F":
                ended[words[0]] = words[1]
        killer.join()
        child.stdout.close()
        assert child.wait(60) == -signal.SIGKILL

        async def check(history: History, answers: set[str] = answers) -> None:
            nonlocal interrupted
            for answer in answers:
                message = await history.message(answer)
                if answer in ended:
                    assert (message["status"], message["content"]) == ("complete", ended[answer])
                    continue
                assert message["status"] in ("interrupted", "complete")
                interrupted += message["status"] == "interrupted"
                assert len(message["content"]) >= partial.get(answer, 0)
                turn = turns[message["parent_id"]].split()[-1]
                words = message["content"].split()
                assert words == [f"{turn}.{word}" for word in range(len(words))]

        run(path, check)

    async def everything(history: History) -> None:
        for key, content in turns.items():
            assert (await history.message(key))["content"] == content
        for conversation in await history.list(1000):
            assert len((await history.get(conversation["id"]))["messages"]) == conversation["message_count"]

    run(path, everything)
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
    connection.close()
    assert ended
    print(len(turns), "turns,", len(ended), "finished,", interrupted, "interrupted")


class Model(RuleBasedStateMachine):
    """History against dictionaries: conversations as trees of messages."""

    runner: asyncio.Runner
    history: History
    folder: Path

    @initialize()
    def start(self) -> None:
        self.folder = Path(tempfile.mkdtemp(dir=os.environ["TG_TEST_FOLDER"]))
        self.runner = asyncio.Runner()
        self.history = self.runner.run(History.open(self.folder / "history.db"))
        self.trees: dict[str, dict[str, dict[str, Any]]] = {}
        self.leaves: dict[str, str | None] = {}
        self.titles: dict[str, str] = {}
        self.deleted: set[str] = set()
        self.order: list[str] = []
        self.streaming: dict[str, tuple[str, str]] = {}  # generation: (conversation, message)
        self.count = 0

    def touch(self, key: str) -> None:
        self.order.remove(key)
        self.order.insert(0, key)

    def pick(self, data: st.DataObject) -> str:
        return data.draw(st.sampled_from([key for key in self.order if key not in self.deleted]))

    @property
    def alive(self) -> bool:
        return any(key not in self.deleted for key in self.order)

    @rule(title=st.text(max_size=5))
    def create(self, title: str) -> None:
        key = self.runner.run(self.history.create(title, None))["id"]
        self.trees[key], self.leaves[key], self.titles[key] = {}, None, title
        self.order.insert(0, key)

    @precondition(lambda self: self.alive)
    @rule(data=st.data(), content=st.text(min_size=1, max_size=8))
    def add_turn(self, data: st.DataObject, content: str) -> None:
        key = self.pick(data)
        leaf = self.leaves[key]
        self.count += 1
        generation = f"g{self.count}"
        if leaf is not None and self.trees[key][leaf]["status"] == "streaming":
            with pytest.raises(TokenglassError):
                self.runner.run(self.history.add_turn(key, content, generation, "m"))
            return
        user, answer = self.runner.run(self.history.add_turn(key, content, generation, "m"))
        self.trees[key][user["id"]] = {"parent": leaf, "content": content, "status": "complete"}
        self.trees[key][answer["id"]] = {"parent": user["id"], "content": "", "status": "streaming"}
        self.leaves[key] = answer["id"]
        self.streaming[generation] = (key, answer["id"])
        self.titles[key] = self.titles[key] or (content.strip().splitlines() or [""])[0].strip()
        self.touch(key)

    @precondition(lambda self: any(self.trees[key] for key in self.order if key not in self.deleted))
    @rule(data=st.data())
    def add_variant(self, data: st.DataObject) -> None:
        key = self.pick(data)
        users = [name for name, entry in self.trees[key].items() if name in self.parents(key)]
        users = [name for name in users if "question" in self.kind(key, name)]
        if not users:
            return
        user = data.draw(st.sampled_from(users))
        self.count += 1
        answer = self.runner.run(self.history.add_variant(key, user, f"g{self.count}", "m"))
        self.trees[key][answer["id"]] = {"parent": user, "content": "", "status": "streaming"}
        self.leaves[key] = answer["id"]
        self.streaming[f"g{self.count}"] = (key, answer["id"])
        self.touch(key)

    def parents(self, key: str) -> set[str | None]:
        return {entry["parent"] for entry in self.trees[key].values()}

    def kind(self, key: str, name: str) -> str:
        depth = 0
        parent = self.trees[key][name]["parent"]
        while parent is not None:
            depth, parent = depth + 1, self.trees[key][parent]["parent"]
        return "answer" if depth % 2 else "question"

    @precondition(lambda self: self.streaming)
    @rule(data=st.data(), text=st.text(max_size=6))
    def append(self, data: st.DataObject, text: str) -> None:
        generation = data.draw(st.sampled_from(sorted(self.streaming)))
        key, message = self.streaming[generation]
        self.history.append_text(generation, text)
        self.trees[key][message]["content"] += text

    @precondition(lambda self: self.streaming)
    @rule(data=st.data(), text=st.text(max_size=6), reason=st.sampled_from(["stop", "length", "cancelled"]))
    def finish(self, data: st.DataObject, text: str, reason: FinishReason) -> None:
        generation = data.draw(st.sampled_from(sorted(self.streaming)))
        key, message = self.streaming.pop(generation)
        self.runner.run(self.history.finish(finished(generation, text, reason)))
        status = "cancelled" if reason == "cancelled" else "complete"
        self.trees[key][message].update(content=text, status=status)
        self.touch(key)

    @precondition(lambda self: self.alive)
    @rule(data=st.data())
    def show_branch(self, data: st.DataObject) -> None:
        key = self.pick(data)
        if not self.trees[key]:
            return
        leaf: str | None = data.draw(st.sampled_from(list(self.trees[key])))
        self.runner.run(self.history.get(key, leaf))
        while children := [name for name, entry in self.trees[key].items() if entry["parent"] == leaf]:
            leaf = children[-1]
        self.leaves[key] = leaf

    @precondition(lambda self: self.alive)
    @rule(data=st.data(), title=st.text(min_size=1, max_size=5))
    def rename(self, data: st.DataObject, title: str) -> None:
        key = self.pick(data)
        self.runner.run(self.history.rename(key, title))
        self.titles[key] = title

    @precondition(lambda self: self.alive)
    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        key = self.pick(data)
        self.runner.run(self.history.delete(key))
        self.deleted.add(key)

    @precondition(lambda self: self.deleted)
    @rule(data=st.data())
    def restore(self, data: st.DataObject) -> None:
        # ids are random; only an order that isn't theirs can be played again
        key = data.draw(st.sampled_from([key for key in self.order if key in self.deleted]))
        self.runner.run(self.history.restore(key))
        self.deleted.remove(key)

    @rule()
    def reopen(self) -> None:
        self.runner.run(self.history.close())
        self.history = self.runner.run(History.open(self.folder / "history.db"))
        for key, message in self.streaming.values():
            self.trees[key][message]["status"] = "interrupted"
        self.streaming.clear()
        for key in self.deleted:
            self.order.remove(key)
            del self.trees[key]
        self.deleted.clear()

    @invariant()
    def the_same(self) -> None:
        if not hasattr(self, "history"):
            return
        listed = self.runner.run(self.history.list(1000))
        alive = [key for key in self.order if key not in self.deleted]
        assert [entry["id"] for entry in listed] == alive
        for entry in listed:
            key = entry["id"]
            assert entry["title"] == self.titles[key]
            assert entry["message_count"] == len(self.trees[key])
            assert entry["leaf"] == self.leaves[key]
            path: list[str] = []
            name = self.leaves[key]
            while name is not None:
                path.insert(0, name)
                name = self.trees[key][name]["parent"]
            shown = self.runner.run(self.history.get(key))["messages"]
            assert [message["id"] for message in shown] == path
            for message in shown:
                mine = self.trees[key][message["id"]]
                assert (message["content"], message["status"]) == (mine["content"], mine["status"])
                siblings = [
                    name for name, other in self.trees[key].items() if other["parent"] == mine["parent"]
                ]
                assert message["variants"] == siblings
                assert siblings[message["variant"]] == message["id"]

    def teardown(self) -> None:
        if hasattr(self, "history"):
            self.runner.run(self.history.close())
            self.runner.close()


@pytest.mark.timeout(1800 if SOAK else 600)
def test_history_equals_a_simple_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TG_TEST_FOLDER", str(tmp_path))
    Model.TestCase.settings = settings(
        max_examples=300 if SOAK else 25,
        stateful_step_count=40,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    Model.TestCase("runTest").debug()
