"""The grammar of `--model fake:…`: a model without weights, for tests, demonstrations and benchmarks.

`fake:` alone is a well-behaved model; `fake:key=value,key=value…` changes how it answers, how long that
takes and how it fails. A value may be percent-encoded, as it must be where it has a comma or a percent sign.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, get_args
from urllib.parse import unquote, unquote_to_bytes

from engine.errors import ErrorCode, TokenglassError

PREFIX: Final = "fake:"


def is_fake(path: str) -> bool:
    """Whether a model path means the fake backend."""
    return path.startswith(PREFIX)


@dataclass(frozen=True, slots=True)
class FakeSpec:
    """How a fake model answers, how long that takes, and how it fails."""

    tokens: int | None = None
    """Tokens of an answer; None: 40 to 80, as the prompt has it."""
    script: bytes | None = None
    """The answer, word for word. It may be no valid UTF-8."""
    echo: bool = False
    """Answer with the last user message, or a raw prompt's whole text."""
    bytes: bool = False
    """Every token is one byte, so that characters are split between tokens."""
    ctx: int | None = None
    """Tokens per slot, whatever else is configured."""
    slots: int | None = None
    """Number of slots, whatever else is configured."""
    recurrent: bool = False
    """Forgets a sequence wholly or not at all, as recurrent models do."""
    embedding: bool = False
    """Is an embedding model: gives embeddings and generates nothing."""

    delay_ms: float = 0.0
    """Each step takes this long."""
    prefill_ms: float = 0.0
    """Each prompt token but the last takes this long."""
    load_ms: float = 0.0
    """Loading takes this long and reports progress meanwhile."""

    load_fail: ErrorCode | None = None
    """Loading fails with this code."""
    oom_at_load: bool = False
    """Loading fails for lack of memory."""
    gpu_layers: int | None = None
    """It has a GPU for so many layers; left to choose, it first tries one more than twice as many."""
    gpu_abort: int | None = None
    """That its GPU holds fewer layers shows only when this many tokens have been sampled, and the process
    aborts; with 0 while loading."""
    load_abort: bool = False
    """The process aborts while loading."""
    abort_after: int | None = None
    """The process aborts (SIGABRT) when this many tokens have been sampled since the load."""
    exit_after: int | None = None
    """The process leaves with exit code 3 when this many tokens have been sampled since the load."""
    hang_after: int | None = None
    """The step hangs for ever when this many tokens have been sampled since the load."""
    fail_after: int | None = None
    """A decode fails with out_of_memory, once, when this many tokens have been sampled since the load."""
    nan_after: int | None = None
    """Each generation meets NaN logits after this many tokens of its own."""

    @classmethod
    def parse(cls, path: str) -> FakeSpec:
        """Read `fake:…`. Raises TokenglassError `load_failed` that names the wrong part."""
        if not is_fake(path):
            raise TokenglassError("load_failed", f"not a fake model: {path[:100]!r}")
        values: dict[str, Any] = {}
        body = path.removeprefix(PREFIX)
        for part in body.split(",") if body else []:
            key, equals, text = part.partition("=")
            reader = _READERS.get(key)
            if reader is None:
                raise _wrong(f"there is no key {key[:40]!r}", f"known keys: {', '.join(sorted(_READERS))}")
            if not equals:
                raise _wrong(f"{key} needs a value, as in {key}=1")
            if key in values:
                raise _wrong(f"{key} is given twice")
            try:
                values[key] = reader(text)
            except ValueError as error:
                raise _wrong(f"{key}={text[:40]}: {error}") from None
        if values.get("echo") and "script" in values:
            raise _wrong("give either echo or script")
        return replace(cls(), **values)


def _wrong(what: str, hint: str | None = None) -> TokenglassError:
    return TokenglassError("load_failed", f"fake model: {what}", hint=hint)


def _flag(text: str) -> bool:
    if text not in ("0", "1"):
        raise ValueError("must be 0 or 1")
    return text == "1"


def _count(least: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not (text.isascii() and text.isdigit() and len(text) <= 9 and int(text) >= least):
            raise ValueError(f"must be a whole number from {least} up")
        return int(text)

    return read


def _milliseconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 600_000:  # so is NaN refused
        raise ValueError("must be a number of milliseconds from 0 to 600000")
    return value


def _code(text: str) -> ErrorCode:
    for code in get_args(ErrorCode):
        if code == unquote(text):
            return code  # type: ignore[no-any-return]  # get_args() has no type
    raise ValueError("must be an error code of the protocol")


_READERS: Final[Mapping[str, Callable[[str], Any]]] = {
    "tokens": _count(0),
    "script": unquote_to_bytes,
    "echo": _flag,
    "bytes": _flag,
    "ctx": _count(2),
    "slots": _count(1),
    "recurrent": _flag,
    "embedding": _flag,
    "delay_ms": _milliseconds,
    "prefill_ms": _milliseconds,
    "load_ms": _milliseconds,
    "load_fail": _code,
    "oom_at_load": _flag,
    "gpu_layers": _count(0),
    "gpu_abort": _count(0),
    "load_abort": _flag,
    "abort_after": _count(0),
    "exit_after": _count(0),
    "hang_after": _count(0),
    "fail_after": _count(0),
    "nan_after": _count(0),
}
