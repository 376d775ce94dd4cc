"""engine.renderer, rendering and sandbox: templates that mean harm are cut, and nothing else is touched."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import rendering
from engine.commands import Cancel
from engine.events import ModelLoaded
from engine.renderer import Renderer
from engine.rendering import Failure, TemplateFailedError
from engine.sandbox import SandboxedTemplate
from tests.engine.test_client import Recorder, generate, run

ROOT = Path(__file__).resolve().parents[2]
LOOP = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
ENDLESS = {
    "nested loops": LOOP,
    "one call that no signal interrupts": "{{ n ** (n ** n) }}",
    "a constant that never gets ready": "{{ 9 ** (9 ** 9) }}",
}
MEMORY = {
    "a huge product": "{{ 'x' * n ** 6 }}",
    "a huge constant": "{{ 'x' * 10 ** 12 }}",
    "a list that grows": "{% set l = [] %}{% for i in range(9999) %}{% set _ = l.append('x' * n ** 4) %}"
    "{% endfor %}",
}
GADGETS = (
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "{{ lipsum.__globals__['os'].popen('id').read() }}",
    "{{ joiner.__init__.__globals__['__builtins__']['open']('x', 'w') }}",
    "{{ self.__init__.__globals__['__builtins__']['__import__']('os').system('id') }}",
    "{{ '{0.__class__.__init__.__globals__}'.format(cycler) }}",
    "{{ raise_exception.__globals__['json'].codecs.builtins.exec('1') }}",
    "{{ (messages | map(attribute='__class__') | first).__base__ }}",
    "{{ (''|attr('__class__')).mro() }}",
    "{{ namespace(__class__=1) }}",
    "{{ strftime_now.__code__.co_consts }}",
)


PATIENCE_S = 100.0


def patient_command() -> list[str]:
    """The process, but that it doesn't take a busy machine for a worker that is gone."""
    code = (
        f"import sys; sys.path[:] = {[str(ROOT), *sys.path]!r}; from engine import rendering; "
        f"rendering.ORPHAN_LIMIT_S = {2 * PATIENCE_S}; rendering.main()"
    )
    return [sys.executable, "-I", "-S", "-c", code]


@pytest.fixture(scope="module")
def renderer() -> Iterator[Renderer]:
    """One whose limit of time a busy machine doesn't overrun."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("engine.renderer._command", patient_command)
        with contextlib.closing(Renderer(PATIENCE_S)) as renderer:
            yield renderer


def failure(renderer: Renderer, source: str) -> tuple[Failure, str]:
    with pytest.raises(TemplateFailedError) as caught:
        renderer.load(source).render({"n": 99, "messages": [{"role": "user", "content": "Hi"}]})
    return caught.value.failure, str(caught.value)


def works(renderer: Renderer) -> None:
    assert renderer.load("{{ x }}!").render({"x": "Hi"}) == "Hi!"


def gone(pid: int | None, timeout_s: float = PATIENCE_S) -> bool:
    """Whether the process ends, or is a zombie that somebody else has to bury."""
    assert pid is not None
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        end = time.monotonic() + timeout_s
        while process.status() != psutil.STATUS_ZOMBIE:
            if time.monotonic() > end:
                return False
            time.sleep(0.02)
    return True


def opened_by(pid: int) -> list[str]:
    return [str(path.readlink()) for path in Path(f"/proc/{pid}/fd").iterdir()]


# ---- limits


@pytest.mark.parametrize("source", ENDLESS.values(), ids=ENDLESS.keys())
def test_an_endless_template_is_cut_and_its_process_replaced(
    monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    monkeypatch.setattr("engine.renderer._command", patient_command)
    with contextlib.closing(Renderer()) as renderer:
        former = renderer.pid
        start = time.monotonic()
        assert failure(renderer, source) == ("too_slow", "it took longer than 2 s")
        assert time.monotonic() - start >= rendering.TIME_LIMIT_S
        assert gone(former)
        assert renderer.pid != former
        renderer._time_limit_s = PATIENCE_S
        works(renderer)


@pytest.mark.parametrize("source", MEMORY.values(), ids=MEMORY.keys())
def test_a_template_that_eats_memory_is_stopped(renderer: Renderer, source: str) -> None:
    kind, message = failure(renderer, source)
    # on a busy machine its time may be up before its memory is
    assert (kind, message) == ("memory", "it needs too much memory") or kind == "too_slow"
    works(renderer)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_a_renderer_can_open_nothing_and_take_little(renderer: Renderer) -> None:
    works(renderer)
    process = psutil.Process(renderer.pid)
    assert process.rlimit(psutil.RLIMIT_NOFILE) == (0, 0)
    assert process.rlimit(psutil.RLIMIT_FSIZE) == (0, 0)
    assert process.rlimit(psutil.RLIMIT_AS) == (rendering.MEMORY_LIMIT, rendering.MEMORY_LIMIT)
    kinds = sorted(name.partition(":")[0] for name in opened_by(process.pid))
    assert kinds == ["/dev/null"] * 4 + ["pipe", "pipe"], "its two pipes, and nothing of this process"


@pytest.mark.parametrize(
    "source",
    (
        "{% for i in range(1000) %}{{ 'x' * 100000 }}{% endfor %}",
        "{% set x = 'x' * n ** 4 %}{{ x }}",
        "{% macro m() %}{% for i in range(50000) %}{{ 'x' * 100 }}{% endfor %}{% endmacro %}{{ m() }}",
    ),
)
def test_megabytes_of_text_are_refused(renderer: Renderer, source: str) -> None:
    assert failure(renderer, source) == ("too_long", "the rendered prompt is longer than 4 MiB")


def test_as_much_as_is_allowed_goes_through(renderer: Renderer) -> None:
    text = "é" * (4 << 20)
    assert renderer.load("{{ x }}").render({"x": text}) == text


@pytest.mark.parametrize(
    ("source", "says"),
    (
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "RecursionError"),
        ("{% macro a() %}{% call a() %}{% endcall %}{{ caller() }}{% endmacro %}{{ a() }}", "RecursionError"),
        ("{% for m in messages recursive %}{{ loop(messages) }}{% endfor %}", "RecursionError"),
        ("{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}", "RecursionError"),
        ("{% if 1 %}" * 2000 + "{% endif %}" * 2000, "RecursionError|SyntaxError|IndentationError|Memory"),
        ("{% set x = [] %}{% set _ = x.append(x) %}{{ x | tojson }}", "Circular reference"),
        ("{{ print('x') }}", "'print' is undefined"),
        ("{% include 'x' %}", "no loader"),
        ("{% for i in range(10 ** 9) %}{% endfor %}", "Range too big"),
        ("{{ nothing.at.all }}", "undefined"),
        ("{{ 1 // 0 }}", "ZeroDivisionError"),
        ("{% for %}", "Expected an expression"),
    ),
)  # fmt: skip
def test_what_goes_wrong_is_said(renderer: Renderer, source: str, says: str) -> None:
    kind, message = failure(renderer, source)
    assert kind in ("failed", "broken", "memory")
    assert any(word in message for word in says.split("|")) or kind == "memory"
    works(renderer)


@pytest.mark.parametrize("gadget", GADGETS)
def test_there_is_no_way_out_of_the_sandbox(renderer: Renderer, gadget: str) -> None:
    kind, message = failure(renderer, gadget)
    assert kind == "failed"
    assert message.startswith("SecurityError")


def test_a_refusal_has_the_templates_own_words(renderer: Renderer) -> None:
    assert failure(renderer, "{{ raise_exception('Roles must alternate: ' ~ n) }}") == (
        "refused",
        "Roles must alternate: 99",
    )


# ---- the process


def test_it_renders_as_it_would_here(renderer: Renderer) -> None:
    source = "{% for m in ms %}{% if m.x is defined %}{% continue %}{% endif %}{{ m | tojson }}\n{% endfor %}"

    @given(st.lists(st.dictionaries(st.text(), st.none() | st.integers() | st.text() | st.booleans())))
    def check(messages: list[dict[str, object]]) -> None:
        variables = {"ms": messages}
        assert renderer.render(variables) == SandboxedTemplate(source).render(variables)

    renderer.load(source)
    check()


@given(st.dictionaries(st.text(), st.text()), st.data())
def test_messages_between_the_two(message: dict[str, str], data: st.DataObject) -> None:
    stream = io.BytesIO()
    rendering.send(stream, message)
    first = stream.tell()
    rendering.send(stream, {"x": 1})
    whole = stream.getvalue()
    stream.seek(0)
    assert rendering.receive(stream) == message
    assert rendering.receive(stream) == {"x": 1}
    assert rendering.receive(stream) is None
    assert rendering.receive(io.BytesIO(whole[: data.draw(st.integers(0, first - 1))])) is None


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_a_process_that_was_killed_is_replaced_unnoticed(renderer: Renderer) -> None:
    renderer.load("{{ x }}")
    for _ in range(3):
        assert renderer.pid is not None
        os.kill(renderer.pid, signal.SIGKILL)
        assert renderer.render({"x": "still here"}) == "still here"


def test_a_process_that_ends_again_and_again_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.renderer._command", lambda: [sys.executable, "-c", "raise SystemExit(3)"])
    with contextlib.closing(Renderer(PATIENCE_S)) as renderer:
        assert failure(renderer, "{{ n }}") == ("ended", "the process that rendered it ended")
        monkeypatch.undo()
        with contextlib.suppress(TemplateFailedError):
            renderer.load("{{ x }}")
        works(renderer)


def test_a_process_that_talks_nonsense_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import os; os.write(1, b'\\x00\\x00\\x00\\x05hello'); os.read(0, 1); os.read(0, 1)"
    monkeypatch.setattr("engine.renderer._command", lambda: [sys.executable, "-c", code])
    with contextlib.closing(Renderer(PATIENCE_S)) as renderer:
        assert failure(renderer, "{{ n }}")[0] == "ended"


def test_no_process_at_all_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("engine.renderer._command", lambda: [str(tmp_path / "none")])
    with contextlib.closing(Renderer(PATIENCE_S)) as renderer:
        assert failure(renderer, "{{ n }}") == ("ended", "no process could be started for it")
        monkeypatch.undo()
        works(renderer)


OWNER = """
    import sys
    from engine.renderer import Renderer
    renderer = Renderer()
    renderer.load(sys.argv[1])
    print(renderer.pid, flush=True)
    if sys.argv[2] == "renders":
        print(renderer.render({}))
    sys.stdin.read()
"""


@pytest.mark.parametrize(("source", "does"), (("{{ 1 }}", "waits"), (LOOP, "renders")))
def test_a_renderer_never_outlives_its_owner(source: str, does: str) -> None:
    command = [sys.executable, "-c", textwrap.dedent(OWNER), source, does]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None
        pid = int(owner.stdout.readline())
        time.sleep(0.3)
        owner.kill()
        owner.wait()
        assert gone(pid)


def test_the_packaged_program_can_be_a_renderer() -> None:
    command = [sys.executable, str(ROOT / "packaging" / "frozen_entry.py"), rendering.FLAG]
    request = io.BytesIO()
    rendering.send(request, {"source": "{{ x }}"})
    rendering.send(request, {"variables": {"x": "Hi"}})
    done = subprocess.run(command, input=request.getvalue(), capture_output=True, timeout=250, check=True)
    replies = io.BytesIO(done.stdout)
    assert [rendering.receive(replies) for _ in range(4)] == [{}, {"text": ""}, {"text": "Hi"}, None]
    assert done.stderr == b""


# ---- in a worker


def renderer_of(worker: Recorder) -> psutil.Process:
    (child,) = psutil.Process(worker.client.pid).children()
    return child


def test_a_worker_survives_its_template(tmp_path: Path) -> None:
    source = "{% if messages[-1].content == 'Loop' %}" + LOOP + "{% endif %}{{ messages[-1].content }}"

    async def scenario() -> None:
        worker = Recorder(tmp_path, "fake:tokens=100000,delay_ms=20,ctx=200000", chat_template=source)
        await worker.started()
        former = renderer_of(worker).pid
        worker.client.send(generate("running"))
        await worker.until(lambda: worker.text("running"))
        worker.client.send(generate("evil", "Loop"))
        before = len(worker.text("running"))
        await worker.until(lambda: worker.finished("evil"))
        (evil,) = worker.finished("evil")
        assert evil.error is not None
        assert evil.error.code == "invalid_prompt"
        assert "took too long" in evil.error.message
        assert len(worker.text("running")) > before, "the others went on meanwhile"
        worker.client.send(generate("next", max_tokens=5))
        await worker.until(lambda: worker.finished("next"))
        assert worker.finished("next")[0].finish_reason == "length"
        worker.client.send(Cancel(generation_id="running"))
        await worker.until(lambda: worker.finished("running"))
        assert worker.finished("running")[0].finish_reason == "cancelled"
        assert renderer_of(worker).pid != former
        await worker.client.stop()

    run(scenario())


def test_a_template_that_never_ends_delays_its_load_but_once(tmp_path: Path) -> None:
    async def scenario() -> None:
        worker = Recorder(tmp_path, "fake:tokens=5", chat_template=LOOP)
        await worker.started()  # in time, though learning looks at a template dozens of times
        assert worker.of(ModelLoaded)
        worker.client.send(generate())
        await worker.until(lambda: worker.finished("g1"))
        assert worker.finished("g1")[0].finish_reason == "error"
        await worker.client.stop()

    run(scenario())


def test_a_workers_renderer_has_nothing_of_its_pipe(tmp_path: Path) -> None:
    async def scenario() -> None:
        worker = Recorder(tmp_path, "fake:")
        await worker.started()
        renderer = renderer_of(worker)
        if sys.platform.startswith("linux"):
            assert not any(name.startswith("socket:") for name in opened_by(renderer.pid))
        assert worker.client.pid is not None
        worker.client.kill()
        await worker.until(lambda: worker.exit)
        assert gone(renderer.pid)

    run(scenario())


def test_a_renderer_that_dies_is_no_matter(tmp_path: Path) -> None:
    async def scenario() -> None:
        worker = Recorder(tmp_path, "fake:tokens=5")
        await worker.started()
        renderer = renderer_of(worker)
        renderer.kill()
        assert gone(renderer.pid)
        worker.client.send(generate())
        await worker.until(lambda: worker.finished("g1"))
        assert worker.finished("g1")[0].finish_reason == "stop"
        await worker.client.stop()
        assert worker.exit is not None
        assert worker.exit.log_tail == ""

    run(scenario())


def test_a_template_that_cannot_be_read_leaves_raw_prompts(tmp_path: Path) -> None:
    async def scenario() -> None:
        worker = Recorder(tmp_path, "fake:tokens=5", chat_template="{% for %}")
        await worker.started()
        worker.client.send(generate("chat"))
        raw = generate("raw").model_copy(update={"messages": None, "prompt": "Once"})
        worker.client.send(raw)
        await worker.until(lambda: worker.finished("chat") and worker.finished("raw"))
        (chat,) = worker.finished("chat")
        assert chat.error is not None
        assert "can't be read" in chat.error.message
        assert worker.finished("raw")[0].finish_reason == "stop"
        await worker.client.stop()

    run(scenario())
