import os
import stat
from pathlib import Path

import pytest

from api.paths import Paths, absolute, assets_dir, is_there, starter_model, tilde, write_atomically
from engine.errors import TokenglassError


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_home_holds_every_folder(tmp_path: Path) -> None:
    paths = Paths.resolve(tmp_path / "h")
    assert paths.server_file == tmp_path / "h" / "runtime" / "server.json"
    assert paths.database == tmp_path / "h" / "data" / "history.db"
    for folder in (paths.config_dir, paths.data_dir, paths.cache_dir, paths.runtime_dir, paths.models_dir):
        assert folder.is_relative_to(tmp_path / "h")
        assert mode(folder) == 0o700


def test_home_from_environment_and_argument_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENGLASS_HOME", str(tmp_path / "env"))
    assert Paths.resolve().data_dir == tmp_path / "env" / "data"
    assert Paths.resolve(tmp_path / "arg").data_dir == tmp_path / "arg" / "data"


def test_relative_home_becomes_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Paths.resolve(Path("here")).data_dir == tmp_path / "here" / "data"


def test_wide_folder_is_closed(tmp_path: Path) -> None:
    (tmp_path / "runtime").mkdir(mode=0o755)
    (tmp_path / "runtime").chmod(0o777)
    assert mode(Paths.resolve(tmp_path).runtime_dir) == 0o700


def test_without_home_the_desktop_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TOKENGLASS_HOME", raising=False)
    for name in ("CONFIG", "DATA", "CACHE"):
        monkeypatch.setenv(f"XDG_{name}_HOME", str(tmp_path / name))
    run = tmp_path / "run"
    run.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(run))
    paths = Paths.resolve()
    assert paths.config_dir == tmp_path / "CONFIG" / "tokenglass"
    assert paths.runtime_dir == run / "tokenglass"


def test_no_runtime_folder_in_a_shared_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TOKENGLASS_HOME", raising=False)
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    for name in ("CONFIG", "DATA", "CACHE"):
        monkeypatch.setenv(f"XDG_{name}_HOME", str(tmp_path / name))
    runtime = Paths.resolve().runtime_dir
    assert runtime.is_relative_to(tmp_path) or runtime.is_relative_to(f"/run/user/{os.getuid()}")


def test_file_in_the_way_is_one_message(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file")
    with pytest.raises(TokenglassError) as caught:
        Paths.resolve(tmp_path)
    assert caught.value.code == "storage"
    assert str(tmp_path / "data") in str(caught.value)


def test_assets_of_the_source_tree_and_of_a_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert assets_dir() == Path(__file__).resolve().parents[2] / "assets"
    monkeypatch.setattr("sys._MEIPASS", str(tmp_path), raising=False)
    with pytest.raises(TokenglassError, match="missing"):
        assets_dir()
    (tmp_path / "assets").mkdir()
    assert starter_model() == tmp_path / "assets" / "starter" / "starter.gguf"


def test_tilde(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    assert tilde("/home/someone/models/a.gguf") == "~/models/a.gguf"
    assert tilde("/home/someone") == "~"
    assert tilde("/home/someoneelse/a") == "/home/someoneelse/a"


def test_atomic_write_replaces_and_leaves_nothing_behind(tmp_path: Path) -> None:
    target = tmp_path / "file"
    write_atomically(target, b"one")
    write_atomically(target, b"two")
    assert target.read_bytes() == b"two"
    assert mode(target) == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_atomic_write_that_fails_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "file"
    write_atomically(target, b"one")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_atomically(target, b"two")
    assert target.read_bytes() == b"one"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_names_that_no_file_can_have(tmp_path: Path) -> None:
    """A name that is too long, and the home folder of nobody."""
    long = tmp_path / ("n" * 300)
    assert not is_there(long)
    assert is_there(tmp_path)
    with pytest.raises(TokenglassError, match=r"can't make the folder .*File name too long"):
        Paths.resolve(long)
    assert absolute("~nobody-by-this-name/m.gguf") == Path("~nobody-by-this-name/m.gguf")
    with pytest.raises(TokenglassError, match="there is no folder ~nobody-by-this-name/x"):
        Paths.resolve(Path("~nobody-by-this-name/x"))
    assert not is_there(Path("~nobody-by-this-name"))
