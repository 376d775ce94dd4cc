"""The model library: the starter, the GGUF files in the models folder, and files that the user added."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

from api import chat_templates
from api.paths import Paths, absolute, is_there, starter_model, write_atomically
from api.settings import SettingsStore
from engine.errors import TokenglassError
from engine.gguf import GgufHeader, read_header

logger = logging.getLogger(__name__)

STARTER = "starter"
RESERVED = frozenset((STARTER, "fake"))
MAX_ID = 80

Source = Literal["starter", "folder", "added"]
Entry = dict[str, Any]
Entries = list[Entry]
T = TypeVar("T")

_PART = re.compile(r"-(\d{5})-of-\d{5}$")


@dataclass(frozen=True, slots=True)
class _Place:
    id: str
    path: Path
    source: Source


_Places = list[_Place]


class Library:
    """Which models there are. Its coroutines run in the loop's executor; it is safe from any thread.

    An entry: {id, name, path, size_bytes, architecture, n_params, n_ctx_train, quantization,
    has_chat_template, template_file, source (`starter`, `folder`, `added`), error}. Numbers that the file
    doesn't tell are None. `template_file` is that of a chat template in place of the model's own, or None.
    `error` is None, or says as {code, message, path, hint} why the file can't be loaded; all facts are
    None then.
    """

    def __init__(self, paths: Paths, settings: SettingsStore) -> None:
        self._paths = paths
        self._settings = settings
        self._lock = threading.Lock()
        self._headers: dict[tuple[str, int, int], GgufHeader | TokenglassError] = {}

    async def list(self) -> Entries:
        """All models, the starter first; the others by name."""
        return await self._in_thread(self.list_now)

    async def find(self, name: str) -> Entry:
        """The entry for an id or a file's path; a path that isn't in the library yet joins it.

        Raises TokenglassError `not_found`, or what is wrong with the file.
        """
        return await self._in_thread(partial(self.find_now, name))

    async def get(self, model_id: str) -> Entry:
        """The entry for an id, never for a path. Raises as `find` does."""
        return await self._in_thread(partial(self.get_now, model_id))

    async def add(self, path: str) -> Entry:
        """Put a file into the library where it lies. Raises TokenglassError, also for a bad file."""
        return await self._in_thread(partial(self.add_now, path))

    async def remove(self, model_id: str) -> Entry:
        """Take an added file out of the list; the file stays. Raises TokenglassError."""
        return await self._in_thread(partial(self.remove_now, model_id))

    async def _in_thread(self, action: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(None, action)

    # ---- the same for callers without a loop; they read files

    def list_now(self) -> Entries:
        with self._lock:
            return [self._entry(place) for place in self._places()]

    def get_now(self, model_id: str) -> Entry:
        with self._lock:
            place = next((place for place in self._places() if place.id == model_id), None)
            if place is None:
                raise TokenglassError(
                    "not_found",
                    f"there is no model {model_id[:200]!r} in the library",
                    hint="`tokenglass models` lists them, `tokenglass models add FILE` adds one",
                )
            return self._sound(place)

    def find_now(self, name: str) -> Entry:
        try:
            return self.get_now(name)
        except TokenglassError as error:
            looks_like_a_path = os.sep in name or name.startswith("~") or name.endswith(".gguf")
            if error.code != "not_found" or not (looks_like_a_path or is_there(absolute(name))):
                raise
        return self.add_now(name)

    def add_now(self, path: str) -> Entry:
        target = absolute(path)
        with self._lock:
            places = self._places()
            for place in places:
                if _same(place.path, target):
                    return self._sound(place)
            taken = {place.id for place in places}
            place = _Place(_unique(_slug(target), taken), target, "added")
            entry = self._sound(place)
            added = [other for other in places if other.source == "added"]
            self._write([*added, place])
            return entry

    def remove_now(self, model_id: str) -> Entry:
        with self._lock:
            places = self._places()
            place = next((place for place in places if place.id == model_id), None)
            if place is None:
                raise TokenglassError("not_found", f"there is no model {model_id[:200]!r} in the library")
            if place.source == "starter":
                raise TokenglassError("bad_state", "the starter model is part of the app")
            if place.source == "folder":
                raise TokenglassError(
                    "bad_state",
                    f"{place.path.name} lies in the models folder",
                    hint=f"delete the file {place.path} if you don't want it any more",
                )
            self._write([other for other in places if other.source == "added" and other is not place])
            entry = self._entry(place)
            chat_templates.clear(self._paths, place.id)  # not for another model that gets this id
            return entry

    def template_now(self, model_id: str) -> str | None:
        """The chat template that a model is used with: the one that stands in for its own, or its own."""
        entry = self.get_now(model_id)
        if entry["template_file"] is not None:
            return chat_templates.read(entry["template_file"])
        return read_header(Path(entry["path"])).chat_template

    # ---- under the lock

    def _places(self) -> _Places:
        places = [_Place(STARTER, starter_model(), "starter")]
        added = self._read()
        taken = {STARTER, *(place.id for place in added)}
        folder = self._paths.models_dir
        try:
            files = sorted(path for path in folder.iterdir() if path.suffix.lower() == ".gguf")
        except OSError as error:
            logger.warning("can't list %s: %s", folder, error)
            files = []
        for path in files:
            part = _PART.search(path.stem)
            if part is not None and part[1] != "00001":
                continue  # a later part of a split model
            if any(_same(path, place.path) for place in added):
                continue
            model_id = _unique(_slug(path), taken)
            taken.add(model_id)
            places.append(_Place(model_id, path, "folder"))
        places[1:] = sorted([*places[1:], *added], key=lambda place: place.id.casefold())
        return places

    def _header(self, place: _Place) -> GgufHeader:
        """Raises TokenglassError; an unchanged file isn't read twice."""
        path = place.path
        try:
            status = path.stat()
        except (OSError, ValueError):
            if place.source == "starter":
                raise TokenglassError(
                    "not_found", "the starter model's file is missing", hint="in a source tree: make starter"
                ) from None
            raise TokenglassError("not_found", f"there is no file {path}") from None
        key = (str(path), status.st_mtime_ns, status.st_size)
        known = self._headers.get(key)
        if known is None:
            try:
                known = read_header(path)
            except TokenglassError as error:
                known = error
            if len(self._headers) > 10_000:
                self._headers.clear()
            self._headers[key] = known
        if isinstance(known, TokenglassError):
            raise TokenglassError.of(known.info)
        return known

    def _sound(self, place: _Place) -> Entry:
        return self._described(place, self._header(place))

    def _entry(self, place: _Place) -> Entry:
        try:
            return self._sound(place)
        except TokenglassError as error:
            return self._described(place, None) | {"error": error.info.model_dump(mode="json")}

    def _described(self, place: _Place, header: GgufHeader | None) -> Entry:
        template = chat_templates.find(self._paths, place.id)
        return _described(place, header) | {"template_file": str(template) if template else None}

    def _read(self) -> _Places:
        file = self._paths.library_file
        try:
            models = json.loads(file.read_bytes())["models"]
            return [_Place(str(model["id"]), Path(model["path"]), "added") for model in models]
        except FileNotFoundError:
            return []
        except OSError as error:
            logger.warning("can't read %s: %s", file, error)
            return []
        except (ValueError, KeyError, TypeError, RecursionError):
            stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
            aside = file.with_name(f"{file.name}.damaged-{stamp}")
            logger.warning("the list of added models is damaged; it was set aside as %s", aside)
            try:
                file.replace(aside)
            except OSError as error:
                raise self._storage(error) from None
            return []

    def _write(self, added: _Places) -> None:
        models = [{"id": place.id, "path": str(place.path)} for place in added]
        text = json.dumps({"version": 1, "models": models}, indent=2)
        try:
            write_atomically(self._paths.library_file, text.encode() + b"\n")
        except OSError as error:
            raise self._storage(error) from None

    def _storage(self, error: OSError) -> TokenglassError:
        return TokenglassError(
            "storage",
            f"can't write {self._paths.library_file}: {error.strerror or error}",
            hint="check the folder's permissions and free space",
        )


def _described(place: _Place, header: GgufHeader | None) -> Entry:
    return {
        "id": place.id,
        "name": (header.name if header else "") or place.path.stem,
        "path": str(place.path),
        "size_bytes": header.size_bytes if header else None,
        "architecture": header.architecture if header else None,
        "n_params": (header.n_params or None) if header else None,
        "n_ctx_train": (header.n_ctx_train or None) if header else None,
        "quantization": (header.quantization or None) if header else None,
        "has_chat_template": header.has_chat_template if header else None,
        "source": place.source,
        "error": None,
    }


def _same(one: Path, other: Path) -> bool:
    try:
        return one == other or one.samefile(other)
    except (OSError, ValueError):
        return False


def _slug(path: Path) -> str:
    stem = _PART.sub("", path.stem)
    return re.sub(r"[^A-Za-z0-9._-]+", "-", stem)[:MAX_ID].strip("-.") or "model"


def _unique(slug: str, taken: set[str]) -> str:
    taken = {name.casefold() for name in taken | RESERVED}
    model_id, number = slug, 1
    while model_id.casefold() in taken:
        number += 1
        model_id = f"{slug}-{number}"
    return model_id
