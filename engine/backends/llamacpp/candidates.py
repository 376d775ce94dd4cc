"""The candidate array that llama.cpp's samplers work on, filled from logits by numpy."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.backends.llamacpp.library import lib

Ids = NDArray[np.integer[Any]]
Logits = NDArray[np.float32]

_DATA = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])  # llama_token_data
_BLOCK = 32


class Candidates:
    """One for all samplers of a backend, since one thread uses them one after the other."""

    def __init__(self, n_vocab: int) -> None:
        self._all = np.arange(n_vocab, dtype=np.int32)
        data = np.zeros(n_vocab, _DATA)
        self._ids, self._logits = data["id"], data["logit"]
        pointer = data.ctypes.data_as(ctypes.POINTER(lib.llama_token_data))
        self._array = lib.llama_token_data_array(pointer, n_vocab, -1, False)
        self._reference = ctypes.byref(self._array)

    def fill(self, logits: Logits, ids: Ids | None = None) -> None:
        """Take the tokens `ids` with these logits; without ids, all tokens."""
        n = len(logits)
        self._ids[:n] = self._all if ids is None else ids
        self._logits[:n] = logits
        array = self._array
        array.size, array.selected, array.sorted = n, -1, False

    def apply(self, sampler: Any) -> None:
        lib.llama_sampler_apply(sampler, self._reference)

    @property
    def selected(self) -> int:
        """The token that the last sampler chose."""
        return int(self._ids[self._array.selected])

    def left(self) -> tuple[Ids, Logits]:
        """Copies of the tokens whose logits aren't minus infinity, and of these."""
        n = self._array.size
        logits = self._logits[:n]
        kept = logits > -np.inf
        return self._ids[:n][kept], logits[kept]


class Single:
    """A candidate array of one token: asks a sampler about it, or has a sampler draw once for nothing."""

    def __init__(self) -> None:
        self._data = (lib.llama_token_data * 1)()
        self._array = lib.llama_token_data_array(self._data, 1, -1, False)
        self._reference = ctypes.byref(self._array)

    def apply(self, sampler: Any, token: int) -> float:
        """What `sampler` makes of a logit of 0."""
        data, array = self._data[0], self._array
        data.id, data.logit = token, 0.0
        array.size, array.selected, array.sorted = 1, -1, False
        lib.llama_sampler_apply(sampler, self._reference)
        return float(data.logit)


def likeliest(logits: Logits, n: int) -> Ids:
    """Ids of all tokens as likely as the n-th likeliest or more, and perhaps of a few more; ascending."""
    width = len(logits) // _BLOCK
    highest = logits
    if 4 * n <= width:
        # the highest of each block: n of them reach the n-th highest of these, and maxima down columns
        # and a short partition are far faster than a long one
        highest = logits[: width * _BLOCK].reshape(_BLOCK, width).max(axis=0)
    ids: Ids = (logits >= np.partition(highest, -n)[-n]).nonzero()[0]
    return ids
