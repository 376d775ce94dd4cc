"""One call while it is read: who is called, and the arguments as they become certain."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.formats.values import dump_json


class Call:
    """A call as far as it has been read.

    Its arguments only ever grow, and in the end are the text of a JSON object. So they can be told in pieces.
    """

    __slots__ = ("_keys", "_n_taken", "_parts", "name")

    def __init__(self) -> None:
        self.name = ""
        """Who is called, once that is certain."""
        self._parts: list[str] = []
        self._n_taken = 0
        self._keys: set[str] = set()

    @property
    def arguments(self) -> str:
        return "".join(self._parts)

    @property
    def taken(self) -> str:
        """What has been taken of the arguments."""
        return "".join(self._parts[: self._n_taken])

    def take(self) -> str:
        """What has come since this was last asked for."""
        new = self._parts[self._n_taken :]
        self._n_taken += len(new)
        return "".join(new)

    def write(self, text: str) -> None:
        """Go on with JSON text."""
        self._parts.append(text)

    def write_text(self, text: str) -> None:
        """Go on with the text of a string."""
        self._parts.append(dump_json(text)[1:-1])

    # ---- arguments that the model doesn't write as one JSON object

    def key(self, name: str) -> bool:
        """Begin with an argument, whose value is to be written; False where it was there before."""
        if name in self._keys:
            return False
        self.write(f"{', ' if self._keys else '{'}{dump_json(name)}: ")
        self._keys.add(name)
        return True

    def fields(self, values: Mapping[str, Any]) -> None:
        """Some arguments; of those with the same name the first counts."""
        for name, value in values.items():
            if self.key(name):
                self.write(dump_json(value))

    def end_fields(self) -> None:
        self.write("}" if self._keys else "{}")
