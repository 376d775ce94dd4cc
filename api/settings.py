"""The user's settings: one JSON file, checked field by field, written atomically."""

from __future__ import annotations

import json
import logging
import shutil
import threading
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError

from api.guard import check_origin
from api.paths import write_atomically
from api.refusals import refusal
from engine.errors import TokenglassError
from engine.types import Argument, SamplingParams

logger = logging.getLogger(__name__)

VERSION = 1
DEFAULT_PORT = 7317
MIN_CELLS = 256
"""Of the KV cache; nobody may ask for fewer: it is llama.cpp's own step, and they hold no conversation."""


def _origin(value: str) -> str:
    try:
        return check_origin(value)
    except TokenglassError as error:
        raise ValueError(str(error)) from None


def _cells(value: int) -> int:
    if 0 < value < MIN_CELLS:
        raise ValueError(f"must be 0 (enough for all slots) or at least {MIN_CELLS}")
    return value


OriginName = Annotated[str, Field(max_length=300), AfterValidator(_origin)]


class Settings(Argument):
    """What the user may choose. Options of the command line win over these, for one run."""

    version: int = Field(VERSION, ge=1)
    """Of the file's form; fields are only ever added within one version."""
    port: int = Field(DEFAULT_PORT, ge=0, le=65535)
    """0: any free one."""
    model: str | None = Field(None, max_length=4096)
    """Library id or path of the model used last; None: the starter."""
    parallel: int = Field(4, ge=1, le=64)
    """Slots: generations that run at once."""
    ctx: int = Field(0, ge=0, le=1 << 24)
    """Tokens per slot; 0: what the model was trained for, at most 4096."""
    threads: int = Field(0, ge=0, le=1024)
    """0: the machine's cores less one for the window."""
    threads_batch: int = Field(0, ge=0, le=1024)
    """For prompts; 0: as `threads`."""
    batch_size: int = Field(0, ge=0, le=1 << 16)
    """Token budget of one step; 0: 512."""
    ubatch_size: int = Field(0, ge=0, le=1 << 16)
    """Tokens computed at once within a step; 0: 512."""
    kv: Annotated[int, AfterValidator(_cells)] = Field(0, ge=0, le=1 << 26)
    """Cells of the KV cache, shared by all slots; 0: enough for all at their full length."""
    gpu_layers: int = Field(-1, ge=-1, le=10_000)
    """-1: as many as the GPU's memory takes."""
    allow_origins: list[OriginName] = Field([], max_length=64)
    """Web pages that may connect, e.g. `http://localhost:3000`."""
    theme: Literal["system", "light", "dark"] = "system"
    system_prompt: str = Field("", max_length=100_000)
    """For new conversations."""
    sampling: SamplingParams = SamplingParams()
    """For what the window and `chat` generate."""
    max_tokens: int | None = Field(None, ge=1)
    log_level: Literal["debug", "info", "warning", "error"] = "info"


class SettingsStore:
    """The settings and their file. Any thread may call it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._unknown: dict[str, Any] = {}
        self.current = Settings()
        self.messages: list[str] = []
        """What the user should be told about the file, from `load`."""

    def load(self) -> Settings:
        """Read the file; where it is missing, the defaults.

        What can't be understood is never overwritten: the file is set aside as `settings.json.damaged-…`
        first, and `messages` says so. Raises TokenglassError `storage` where the file can't be read at all.
        """
        with self._lock:
            self.messages = []
            try:
                text = self._path.read_bytes()
            except FileNotFoundError:
                return self.current
            except OSError as error:
                raise self._storage("read", error) from None
            try:
                data = json.loads(text)
                if not isinstance(data, dict):
                    raise ValueError("not an object")
            except (ValueError, RecursionError):
                self._tell(f"the settings file is damaged; it was set aside as {self._set_aside(move=True)}")
                return self.current
            self._unknown = {key: value for key, value in data.items() if key not in Settings.model_fields}
            known = {key: value for key, value in data.items() if key in Settings.model_fields}
            try:
                self.current = Settings.model_validate(known)
            except ValidationError as error:
                wrong = sorted({str(item["loc"][0]) for item in error.errors(include_url=False)})
                kept = {key: value for key, value in known.items() if key not in wrong}
                aside = self._set_aside(move=False)
                self.current = Settings.model_validate(kept)
                self._write(self.current)
                self._tell(
                    f"settings with wrong values were reset: {', '.join(wrong)}; the old file is {aside}"
                )
            return self.current

    def update(self, partial: Mapping[str, Any]) -> Settings:
        """Change some fields (`sampling` field by field) and write the file.

        Raises TokenglassError `invalid_argument`, then nothing has changed, or `storage`.
        """
        with self._lock:
            data = self.current.model_dump()
            for key, value in partial.items():
                if key not in Settings.model_fields or key == "version":
                    raise TokenglassError(
                        "invalid_argument", f"there is no setting {key[:100]!r}", path=f"settings.{key[:100]}"
                    )
                if key == "sampling" and isinstance(value, Mapping):
                    value = {**data["sampling"], **value}
                data[key] = value
            try:
                settings = Settings.model_validate(data)
            except ValidationError as error:
                raise refusal(error, data, inside="settings") from None
            if settings != self.current:
                self._write(settings)
                self.current = settings
            return self.current

    def _write(self, settings: Settings) -> None:
        data = {**self._unknown, **settings.model_dump(mode="json")}
        text = json.dumps(data, indent=2, ensure_ascii=False)
        try:
            write_atomically(self._path, (text + "\n").encode("utf-8", "replace"))
        except OSError as error:
            raise self._storage("write", error) from None

    def _set_aside(self, *, move: bool) -> Path:
        stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S-%f")
        aside = self._path.with_name(f"{self._path.name}.damaged-{stamp}")
        try:
            if move:
                self._path.replace(aside)
            else:
                shutil.copy2(self._path, aside)
        except OSError as error:
            raise self._storage("set aside", error) from None
        return aside

    def _tell(self, message: str) -> None:
        logger.warning("%s", message)
        self.messages.append(message)

    def _storage(self, what: str, error: OSError) -> TokenglassError:
        return TokenglassError(
            "storage",
            f"can't {what} the settings file {self._path}: {error.strerror or error}",
            hint="check the file's permissions and the free space, or choose another folder with --home",
        )
