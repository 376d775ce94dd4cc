"""Chat templates that stand in for models' own: `ID.jinja` in the templates folder, one file a model."""

from __future__ import annotations

from pathlib import Path

from api.paths import Paths, write_atomically
from engine.errors import TokenglassError

MAX_BYTES = 1 << 20


def find(paths: Paths, model_id: str) -> Path | None:
    """The file of the template that stands in for the model's own, if there is one."""
    file = _file(paths, model_id)
    return file if file.is_file() else None


def read(file: Path | str) -> str:
    """A template's source. Raises TokenglassError `storage`, or `invalid_argument` where it is no text."""
    try:
        with Path(file).open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise TokenglassError("storage", f"can't read {file}: {error.strerror or error}") from None
    if len(data) > MAX_BYTES:
        raise TokenglassError("invalid_argument", f"{file} is longer than 1 MiB: that is no chat template")
    try:
        return data.decode("utf-8").replace("\r\n", "\n")
    except UnicodeDecodeError:
        raise TokenglassError("invalid_argument", f"{file} is no UTF-8 text") from None


def store(paths: Paths, model_id: str, source: str) -> Path:
    """Let a template stand in for the model's own from its next load on. Raises TokenglassError `storage`."""
    file = _file(paths, model_id)
    try:
        file.parent.mkdir(mode=0o700, exist_ok=True)
        write_atomically(file, source.encode("utf-8"))
    except OSError as error:
        raise TokenglassError("storage", f"can't write {file}: {error.strerror or error}") from None
    return file


def clear(paths: Paths, model_id: str) -> bool:
    """Give the model its own template again; answers whether another one was there."""
    file = _file(paths, model_id)
    try:
        file.unlink()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise TokenglassError("storage", f"can't remove {file}: {error.strerror or error}") from None
    return True


def _file(paths: Paths, model_id: str) -> Path:
    return paths.templates_dir / f"{model_id}.jinja"  # ids of the library have no other characters than names
