import asyncio
import json
import os
import socket
import stat
import sys
import tomllib
from pathlib import Path

import pytest

from api import chat_templates
from api.core import Core, Options
from api.discovery import read_server_file
from api.settings import SettingsStore
from api.version import VERSION
from engine.errors import TokenglassError
from tests.api.harness import TOKEN, app, client, eventually, run

STARTER = Path(__file__).parents[2] / "assets" / "starter" / "starter.gguf"


async def refused(options: Options) -> TokenglassError:
    with pytest.raises(TokenglassError) as caught:
        async with Core.open(options):
            pytest.fail("it started")
    return caught.value


def test_the_version_is_the_packages() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert project["version"] == VERSION


def test_open_and_close_leave_nothing_behind(tmp_path: Path) -> None:
    async def test() -> None:
        async with app(tmp_path) as core:
            server = core.paths.server_file
            assert server == tmp_path / "runtime" / "server.json"
            about = read_server_file(server)
            assert about is not None
            assert about["url"] == core.url
            assert about["base_url"] == core.base_url == core.url.replace("ws", "http").removesuffix("/live")
            assert (about["token"], about["pid"], about["version"]) == (TOKEN, os.getpid(), VERSION)
            assert core.paths.token_file.read_text().strip() == TOKEN
            assert stat.S_IMODE(server.stat().st_mode) == 0o600
            assert stat.S_IMODE(server.parent.stat().st_mode) == 0o700
            await eventually(lambda: core.supervisor.worker_pid is not None)
            pid, port = core.supervisor.worker_pid, int(core.url.split(":")[2].split("/")[0])
        assert not server.exists()
        assert not core.paths.token_file.exists()
        with pytest.raises(ProcessLookupError):
            os.kill(pid or -1, 0)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))
        assert core.quit.is_set()

    run(test())


def test_one_app_for_each_home(tmp_path: Path) -> None:
    async def test() -> None:
        async with app(tmp_path) as core:
            error = await refused(Options(home=tmp_path, port=0, model="fake:"))
            assert error.code == "bad_state"
            assert f"pid {os.getpid()}" in error.info.message
            assert core.url in error.info.message
            async with app(tmp_path / "other") as other:
                assert other.url != core.url
            async with client(core) as wire:
                await wire.command("ping")
        async with app(tmp_path):
            pass

    run(test())


def test_a_token_of_its_own_for_each_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TOKENGLASS_TOKEN", raising=False)

    async def test() -> None:
        tokens = []
        for _ in range(2):
            async with Core.open(Options(home=tmp_path, port=0, model="fake:")) as core:
                tokens.append(core.token)
        assert tokens[0] != tokens[1]
        assert len(tokens[0]) >= 43

    run(test())


def test_the_environments_token_is_taken_out_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENGLASS_TOKEN", "from-the-environment")

    async def test() -> None:
        async with Core.open(Options(home=tmp_path, port=0, model="fake:")) as core:
            assert core.token == "from-the-environment"
            assert "TOKENGLASS_TOKEN" not in os.environ

    run(test())


@pytest.mark.parametrize("token", ("", " ", "two words", "line\nbreak", "ümlaut"))
def test_a_token_that_protects_nothing_is_refused(tmp_path: Path, token: str) -> None:
    async def test() -> None:
        error = await refused(Options(home=tmp_path, port=0, model="fake:", token=token))
        assert (error.code, error.info.path) == ("invalid_argument", "token")

    run(test())


@pytest.mark.parametrize("host", ("0.0.0.0", "example.org", "::", "10.0.0.1"))
def test_only_loopback(tmp_path: Path, host: str) -> None:
    async def test() -> None:
        error = await refused(Options(home=tmp_path, host=host, port=0, model="fake:"))
        assert (error.code, error.info.path) == ("invalid_argument", "host")

    run(test())


def test_a_bad_origin_is_refused(tmp_path: Path) -> None:
    async def test() -> None:
        error = await refused(Options(home=tmp_path, port=0, model="fake:", allow_origins=("null",)))
        assert (error.code, error.info.path) == ("invalid_argument", "allow_origin")

    run(test())


def test_a_taken_port(tmp_path: Path) -> None:
    async def test() -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            error = await refused(Options(home=tmp_path, port=port, model="fake:"))
            assert error.code == "bad_state"
            assert str(port) in error.info.message
            assert not (tmp_path / "runtime" / "server.json").exists()
            settings = SettingsStore(tmp_path / "config" / "settings.json")
            settings.update({"port": port})
            async with Core.open(Options(home=tmp_path, model="fake:", token=TOKEN)) as core:
                chosen = int(core.url.split(":")[2].split("/")[0])
                assert chosen != port

    run(test())


def test_ipv6(tmp_path: Path) -> None:
    async def test() -> None:
        try:
            socket.create_server(("::1", 0), family=socket.AF_INET6).close()
        except OSError:
            pytest.skip("this machine has no IPv6")
        async with app(tmp_path, host="::1") as core, client(core) as wire:
            assert core.url.startswith("ws://[::1]:")
            await wire.command("ping")

    run(test())


def test_options_win_over_settings(tmp_path: Path) -> None:
    async def test() -> None:
        async with app(tmp_path, parallel=2, ctx=512, threads=3, gpu_layers=0) as core:
            core.settings.update({"parallel": 7, "ctx": 1024})
            config = core.worker_config({"id": "m", "path": "/m.gguf"})
            assert (config.n_slots, config.n_ctx, config.n_threads, config.n_gpu_layers) == (2, 512, 3, 0)
        async with app(tmp_path) as core:
            config = core.worker_config({"id": "m", "path": "/m.gguf"})
            assert (config.n_slots, config.n_ctx, config.n_threads, config.n_gpu_layers) == (7, 1024, 0, -1)

    run(test())


def test_an_unknown_model_stops_the_start(tmp_path: Path) -> None:
    async def test() -> None:
        error = await refused(Options(home=tmp_path, port=0, model="no-such-model"))
        assert error.code == "not_found"
        bad = tmp_path / "bad.gguf"
        bad.write_bytes(b"GGUF")
        assert (await refused(Options(home=tmp_path, port=0, model=str(bad)))).code == "model_damaged"
        assert (await refused(Options(home=tmp_path, port=0, model="fake:nonsense"))).code == "load_failed"

    run(test())


def test_a_vanished_last_model_is_told_and_passed_over(tmp_path: Path) -> None:
    async def test() -> None:
        SettingsStore(_prepared(tmp_path)).update({"model": "gone-model"})
        async with Core.open(Options(home=tmp_path, port=0, token=TOKEN)) as core:
            assert core.model_id == ("starter" if STARTER.exists() else None)
            async with client(core) as wire:
                await wire.command("subscribe", events=["log"], since=0)
                assert "gone-model" in (await wire.event("log"))["message"]

    run(test())


def _prepared(home: Path) -> Path:
    (home / "config").mkdir(parents=True)
    return home / "config" / "settings.json"


def test_a_damaged_database_stops_the_start_but_not_the_window(tmp_path: Path) -> None:
    async def test() -> None:
        (tmp_path / "data").mkdir()
        database = tmp_path / "data" / "history.db"
        database.write_bytes(b"this is no database" * 500)
        before = database.read_bytes()
        options = Options(home=tmp_path, port=0, model="fake:", token=TOKEN)
        assert (await refused(options)).code == "storage"
        async with Core.open(options, memory_history=True) as core, client(core) as wire:
            created = (await wire.command("conversations.create", title="for now"))["conversation"]
            assert created["title"] == "for now"
        assert database.read_bytes() == before

    run(test())


def test_damaged_settings_are_told(tmp_path: Path) -> None:
    async def test() -> None:
        _prepared(tmp_path).write_text("{not json")
        async with app(tmp_path) as core, client(core) as wire:
            await wire.command("subscribe", events=["log"], since=0)
            assert "settings" in (await wire.event("log"))["message"]

    run(test())


def test_no_secret_and_no_prompt_in_the_log(tmp_path: Path) -> None:
    async def test() -> None:
        async with app(tmp_path, "fake:tokens=3") as core, client(core, f"?token={TOKEN}") as wire:
            await wire.finished(await wire.generate("a-very-private-question"))
        text = "".join(path.read_text() for path in core.paths.log_file.parent.iterdir())
        assert "is up" in text
        assert TOKEN not in text
        assert "a-very-private-question" not in text

    run(test())


def test_fake_models_are_only_for_apps_that_began_with_one(tmp_path: Path) -> None:
    async def test() -> None:
        async with app(tmp_path) as core:
            assert (await core.find_model("fake:tokens=2"))["path"] == "fake:tokens=2"
        if not STARTER.exists():
            return
        async with Core.open(Options(home=tmp_path, port=0, token=TOKEN, model="starter")) as core:
            with pytest.raises(TokenglassError):
                await core.find_model("fake:")

    run(test())


def test_telemetry_comes_by_itself(tmp_path: Path) -> None:
    async def test() -> None:
        async with app(tmp_path) as core, client(core) as wire:
            await wire.command("subscribe", events=["metrics.system"])
            sample = await wire.event("metrics.system")
            assert sample["ram_total"] > 0
            assert sample["app_rss"] > 0
            assert json.dumps(sample)
            await asyncio.sleep(0)

    run(test())


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such limit")
def test_as_many_files_may_be_open_as_clients_need(tmp_path: Path) -> None:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)

    async def test() -> None:
        async with app(tmp_path):
            now, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
            assert now >= (4096 if hard == resource.RLIM_INFINITY else min(hard, 4096))

    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 512), hard))
    try:
        run(test())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_template_in_place_of_a_models_own(tmp_path: Path) -> None:
    async def test() -> None:
        async with app(tmp_path) as core:
            entry = await core.library.get("starter")
            assert core.worker_config(entry).chat_template is None
            file = chat_templates.store(core.paths, "starter", "{{ 1 }}")
            entry = await core.library.get("starter")
            assert core.worker_config(entry).chat_template == "{{ 1 }}"
            file.write_bytes(b"\xff")
            async with client(core) as wire:
                await wire.command("subscribe", events=["log"])
                assert core.worker_config(entry).chat_template is None
                told = await wire.until(lambda frame: frame["type"] == "log")
            assert "no UTF-8 text; starter is loaded with its own chat template" in told["message"]

    run(test())
