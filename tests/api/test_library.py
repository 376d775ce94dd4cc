import asyncio
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from api import chat_templates, cli
from api.library import Library
from api.paths import Paths, starter_model
from api.settings import SettingsStore
from engine.errors import TokenglassError

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="the test models aren't there")
STORIES = DATA / "models" / "stories260K-f32.gguf"


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return Paths.resolve(tmp_path / "home")


@pytest.fixture
def library(paths: Paths) -> Library:
    return Library(paths, SettingsStore(paths.settings_file))


def ids(library: Library) -> list[str]:
    return [entry["id"] for entry in library.list_now()]


def code(action: Any, *arguments: Any) -> str:
    with pytest.raises(TokenglassError) as caught:
        action(*arguments)
    assert caught.value.info.message
    return caught.value.code


def test_the_starter_is_always_first(library: Library) -> None:
    (entry,) = library.list_now()
    assert (entry["id"], entry["source"]) == ("starter", "starter")
    if starter_model().exists():
        assert entry["error"] is None
        assert entry["has_chat_template"] is True
    else:
        assert entry["error"]["code"] == "not_found"


@needs_data
def test_what_a_model_says_of_itself(library: Library) -> None:
    entry = library.add_now(str(STORIES))
    assert entry == {
        "id": "stories260K-f32",
        "name": entry["name"],
        "path": str(STORIES),
        "size_bytes": STORIES.stat().st_size,
        "architecture": "llama",
        "n_params": 292800,
        "n_ctx_train": 512,
        "quantization": "F32",
        "has_chat_template": False,
        "template_file": None,
        "source": "added",
        "error": None,
    }
    assert library.get_now("stories260K-f32") == entry


@needs_data
def test_added_files_are_remembered_and_can_be_removed(paths: Paths, library: Library) -> None:
    library.add_now(str(STORIES))
    assert library.add_now(str(STORIES))["id"] == "stories260K-f32"
    again = Library(paths, SettingsStore(paths.settings_file))
    assert ids(again) == ["starter", "stories260K-f32"]
    assert again.remove_now("stories260K-f32")["path"] == str(STORIES)
    assert ids(library) == ["starter"]
    assert STORIES.exists()
    assert paths.library_file.stat().st_mode & 0o777 == 0o600


@needs_data
def test_files_in_the_models_folder(paths: Paths, library: Library) -> None:
    shutil.copy(STORIES, paths.models_dir / "b.gguf")
    shutil.copy(STORIES, paths.models_dir / "A model (1).GGUF")
    (paths.models_dir / "notes.txt").write_text("no model")
    assert ids(library) == ["starter", "A-model-1", "b"]
    assert library.get_now("b")["source"] == "folder"
    (paths.models_dir / "b.gguf").unlink()
    assert ids(library) == ["starter", "A-model-1"]
    assert code(library.remove_now, "A-model-1") == "bad_state"
    assert code(library.remove_now, "starter") == "bad_state"
    assert code(library.remove_now, "nothing") == "not_found"


@needs_data
def test_ids_are_unique_and_never_reserved(paths: Paths, library: Library, tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        for name in ("m.gguf", "starter.gguf", "fake.gguf", "…….gguf"):
            shutil.copy(STORIES, tmp_path / folder / name)
            library.add_now(str(tmp_path / folder / name))
    shutil.copy(STORIES, paths.models_dir / "M.gguf")
    found = ids(library)
    assert len({name.casefold() for name in found}) == len(found) == 10
    assert {"m", "m-2", "M-3", "starter-2", "starter-3", "fake-2", "model", "model-2"} <= set(found)
    assert library.get_now("M-3")["source"] == "folder"


@needs_data
def test_find_takes_ids_and_paths(library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(STORIES, tmp_path / "here.gguf")
    assert code(library.get_now, str(tmp_path / "here.gguf")) == "not_found"
    assert library.find_now(str(tmp_path / "here.gguf"))["id"] == "here"
    assert library.find_now("here")["path"] == str(tmp_path / "here.gguf")
    monkeypatch.chdir(tmp_path)
    assert library.find_now("here.gguf")["id"] == "here"
    assert code(library.find_now, "gone.gguf") == "not_found"
    assert code(library.find_now, "no-such-model") == "not_found"
    assert code(library.find_now, "nul\0.gguf") == "not_found"
    assert code(library.find_now, "x" * 5000 + ".gguf") in ("not_found", "storage")


@needs_data
def test_split_models_are_one(paths: Paths, library: Library) -> None:
    for name in ("dummy-00001-of-00002.gguf", "dummy-00002-of-00002.gguf"):
        shutil.copy(DATA / "bad_gguf" / name, paths.models_dir / name)
    assert ids(library) == ["starter", "dummy"]


@needs_data
@pytest.mark.parametrize(
    "name",
    [
        "lfs-pointer-Llama-68M-Chat-v1-Q2_K.gguf",
        "truncated-in-header-stories260K.gguf",
        "truncated-stories260K-f32.gguf",
    ],
)
def test_bad_files_are_refused_and_listed_with_their_error(paths: Paths, library: Library, name: str) -> None:
    bad = DATA / "bad_gguf" / name
    assert code(library.add_now, str(bad)) == "model_damaged"
    assert ids(library) == ["starter"]
    shutil.copy(bad, paths.models_dir / "bad.gguf")
    entry = library.list_now()[1]
    assert entry["error"]["code"] == "model_damaged"
    assert entry["architecture"] is None
    assert code(library.get_now, "bad") == "model_damaged"


def test_things_that_are_no_files(library: Library, tmp_path: Path) -> None:
    """Refused without waiting for what a pipe or a device never gives: else this would not end."""
    fifo, empty, folder = tmp_path / "f.gguf", tmp_path / "e.gguf", tmp_path / "d.gguf"
    os.mkfifo(fifo)
    empty.touch()
    folder.mkdir()
    for path in (fifo, empty, folder, Path("/dev/zero"), Path("/dev/null")):
        assert code(library.add_now, str(path)) == "model_damaged"
    assert code(library.add_now, str(tmp_path / "gone.gguf")) == "not_found"
    (tmp_path / "l.gguf").symlink_to(tmp_path / "l.gguf")
    assert code(library.add_now, str(tmp_path / "l.gguf")) in ("not_found", "storage")


@needs_data
def test_a_file_that_vanishes_or_changes(library: Library, tmp_path: Path) -> None:
    file = tmp_path / "m.gguf"
    shutil.copy(STORIES, file)
    library.add_now(str(file))
    file.write_bytes(b"not a model any more, but longer than a header")
    assert library.list_now()[1]["error"]["code"] == "model_damaged"
    file.unlink()
    entry = library.list_now()[1]
    assert (entry["id"], entry["error"]["code"]) == ("m", "not_found")
    library.remove_now("m")
    assert ids(library) == ["starter"]


@needs_data
@pytest.mark.parametrize("content", [b"{", b"[]", b'{"models": 3}', b'{"models": [{"id": "x"}]}', b"\xff"])
def test_a_damaged_list_is_set_aside(paths: Paths, library: Library, content: bytes) -> None:
    paths.library_file.write_bytes(content)
    assert ids(library) == ["starter"]
    aside = list(paths.data_dir.glob("library.json.damaged-*"))
    assert [path.read_bytes() for path in aside] == [content]
    library.add_now(str(STORIES))
    assert json.loads(paths.library_file.read_text())["version"] == 1


@needs_data
def test_a_list_that_cant_be_written_is_one_message(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("api.library.write_atomically", full)
    assert code(library.add_now, str(STORIES)) == "storage"
    assert ids(library) == ["starter"]


@needs_data
def test_the_coroutines_do_the_same(library: Library) -> None:
    async def body() -> None:
        added = await library.add(str(STORIES))
        assert await library.get(added["id"]) == await library.find(str(STORIES)) == added
        assert [entry["id"] for entry in await library.list()] == ["starter", added["id"]]
        await library.remove(added["id"])
        assert len(await library.list()) == 1

    asyncio.run(body())


def test_a_template_in_place_of_a_models_own(paths: Paths, library: Library) -> None:
    own = library.template_now("starter")
    assert own is not None
    assert library.get_now("starter")["template_file"] is None
    file = chat_templates.store(paths, "starter", "{{ messages[0].content }}\n")
    assert library.get_now("starter")["template_file"] == str(file)
    assert library.template_now("starter") == "{{ messages[0].content }}\n"
    assert file.stat().st_mode & 0o777 == 0o600
    assert chat_templates.clear(paths, "starter")
    assert not chat_templates.clear(paths, "starter")
    assert library.template_now("starter") == own


@needs_data
def test_a_removed_model_leaves_no_template_to_the_next_of_its_name(paths: Paths, library: Library) -> None:
    model_id = library.add_now(str(STORIES))["id"]
    assert library.template_now(model_id) is None
    chat_templates.store(paths, model_id, "{{ 1 }}")
    library.remove_now(model_id)
    assert library.add_now(str(STORIES))["template_file"] is None


@pytest.mark.parametrize(
    ("data", "says"), ((b"\xff\xfe{{ 1 }}", "UTF-8"), (b" " * (1 << 21), "1 MiB"), (None, "can't read"))
)
def test_a_file_that_is_no_template(tmp_path: Path, data: bytes | None, says: str) -> None:
    file = tmp_path / "x.jinja"
    if data is not None:
        file.write_bytes(data)
    with pytest.raises(TokenglassError, match=says):
        chat_templates.read(file)


def test_the_command_for_templates(tmp_path: Path, paths: Paths, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*arguments: str) -> tuple[int, str, str]:
        code = cli.main(["models", "--home", str(tmp_path / "home"), "template", *arguments])
        return code, *capsys.readouterr()

    code, own, _ = run("starter")
    assert code == 0
    file = tmp_path / "mine.jinja"
    file.write_text("{{ messages[0].content }}")
    code, out, _ = run("starter", str(file))
    assert code == 0
    assert "from its next load on" in out
    assert (paths.templates_dir / "starter.jinja").read_text() == "{{ messages[0].content }}"
    assert run("starter") == (0, "{{ messages[0].content }}\n", "")
    assert run("starter", "--clear") == (0, "starter has its own chat template again\n", "")
    assert run("starter", "--clear") == (0, "starter has its own chat template\n", "")
    assert run("starter") == (0, own, "")
    file.write_text("{% for %}")
    code, out, err = run("starter", str(file))
    assert (code, out) == (1, "")
    assert err.startswith(f"tokenglass: {file} is no chat template: TemplateSyntaxError")
    assert err.count("\n") == 1
    code, out, err = run("nothing", str(file))
    assert (code, out) == (1, "")
    assert "there is no model" in err
    assert run("starter", str(file), "--clear")[0] == 2
