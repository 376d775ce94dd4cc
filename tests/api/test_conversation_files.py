"""`tokenglass conversations`: files out and in, with and without a running app."""

import json
from pathlib import Path

import pytest

from tests.api.test_commands import run, serving
from tests.api.test_exchange import CHATGPT, DATA, PLAIN


def said(home: Path, *arguments: str, code: int = 0) -> str:
    done = run(home, "conversations", *arguments)
    assert done.returncode == code, done
    if code == 1:
        assert done.stdout == b""
        assert len(done.stderr.splitlines()) == 1
    return (done.stdout if code == 0 else done.stderr).decode()


@pytest.mark.timeout(900)  # some twenty commands, each a process
@pytest.mark.parametrize("running", [False, True])
def test_out_and_in(tmp_path: Path, running: bool) -> None:
    home = tmp_path / "home"
    files = {"own.json": DATA, "theirs.json": CHATGPT, "plain.json": PLAIN}
    for name, data in files.items():
        (tmp_path / name).write_text(json.dumps(data))
    if running:
        with serving(home):
            everything(home, tmp_path)
    else:
        everything(home, tmp_path)


def everything(home: Path, folder: Path) -> None:
    assert said(home) == ""
    assert "no conversations" in said(home, "export", "--all", code=1)
    for name in ("own.json", "theirs.json", "plain.json"):
        assert said(home, "import", str(folder / name)).startswith("imported 1 conversation:\n")
    rows = said(home, "list").splitlines()
    assert [row.split(maxsplit=4)[3:] for row in rows] == [["2", "How deep?"], ["3", "Lakes"], ["3", "Lakes"]]
    own = rows[2].split()[0]
    (told,) = json.loads(said(home, "export", own))["conversations"]
    assert [message["content"] for message in told["messages"]] == ["How deep?", "Deep.", "Very."]
    assert "## User\n\nHow deep?\n\n## Assistant\n\nDeep.\n" in said(home, "export", own, "--markdown")
    target = folder / "all.json"
    assert said(home, "export", "--all", str(target)) == ""
    titles = [conversation["title"] for conversation in json.loads(target.read_text())["conversations"]]
    assert titles == ["How deep?", "Lakes", "Lakes"]
    assert said(home, "import", str(target)).startswith("imported 3 conversations:\n")
    assert [row.split(maxsplit=4)[4] for row in said(home, "list").splitlines()] == titles * 2
    # mistakes
    assert "is there already" in said(home, "export", "--all", str(target), code=1)
    assert "no conversation" in said(home, "export", "nobody", code=1)
    assert "can't read" in said(home, "import", str(folder / "none.json"), code=1)
    bad = folder / "bad.json"
    bad.write_text("{")
    assert "isn't JSON" in said(home, "import", str(bad), code=1)
    bad.write_text(json.dumps(DATA | {"conversations": [*DATA["conversations"], {"leaf": "x"}]}))
    assert "file.conversations.1.leaf" in said(home, "import", str(bad), code=1)
    for wrong in (("export",), ("export", "a", "b", "c"), ("export", "--all", "--markdown"), ("import",)):
        assert said(home, *wrong, code=2)
    assert len(said(home, "list").splitlines()) == 6


def test_what_is_too_long_for_the_app_is_said_before_anything_is_stored(tmp_path: Path) -> None:
    home, file = tmp_path / "home", tmp_path / "long.json"
    long = {"title": "Long", "messages": [{"id": "m", "role": "user", "content": "x" * (1 << 20)}]}
    file.write_text(json.dumps(DATA | {"conversations": [*DATA["conversations"], long]}))
    with serving(home):
        assert "quit the app" in said(home, "import", str(file), code=1)
        assert said(home) == ""
    assert said(home, "import", str(file)).startswith("imported 2 conversations:\n")
