"""Which cells of the KV cache are taken. In a unified one, sequences that share a prefix share its cells.

Pure book-keeping: whoever changes the backend's cache (`engine.slots`) changes this as well.
"""

from __future__ import annotations


class _Run:
    """Cells of neighbouring tokens that the same sequences have."""

    __slots__ = ("length", "owners")

    def __init__(self, length: int, owners: set[int]) -> None:
        self.length = length
        self.owners = owners


class Cells:
    """The book of one cache. Each sequence is a list of runs; a shared run stands in several lists."""

    def __init__(self, n_sequences: int, total: int, *, unified: bool = True) -> None:
        self.total = total
        self._unified = unified
        self.used = 0
        """Cells that some sequence has, each counted once."""
        self._runs: list[list[_Run]] = [[] for _ in range(n_sequences)]

    @property
    def free(self) -> int:
        return self.total - self.used

    def length(self, sequence: int) -> int:
        """How many tokens of a sequence are in the cache."""
        return sum(run.length for run in self._runs[sequence])

    def extend(self, sequence: int, n_tokens: int) -> None:
        """Tokens were computed, each in a cell of its own."""
        self.used += n_tokens
        runs = self._runs[sequence]
        if runs and len(runs[-1].owners) == 1:
            runs[-1].length += n_tokens
        else:
            runs.append(_Run(n_tokens, {sequence}))

    def cut(self, sequence: int, n_tokens: int) -> None:
        """The sequence gives up all but its first tokens; cells that nobody else has are free."""
        runs, kept = self._runs[sequence], self._split(sequence, n_tokens)
        for run in runs[kept:]:
            run.owners.remove(sequence)
            if not run.owners:
                self.used -= run.length
        del runs[kept:]

    def copy(self, source: int, target: int, n_tokens: int) -> None:
        """The empty sequence `target` gets the first tokens of `source`, in the same cells if it can."""
        assert not self._runs[target]
        if not self._unified:
            self.extend(target, n_tokens)
            return
        shared = self._runs[source][: self._split(source, n_tokens)]
        for run in shared:
            run.owners.add(target)
        self._runs[target] = shared

    def _split(self, sequence: int, n_tokens: int) -> int:
        """Let a run end after the first tokens; how many runs these are."""
        end = 0
        for i, run in enumerate(self._runs[sequence]):
            if end == n_tokens:
                return i
            end += run.length
            if end > n_tokens:
                rest = _Run(end - n_tokens, set(run.owners))
                run.length -= rest.length
                for owner in run.owners:
                    runs = self._runs[owner]
                    runs.insert(runs.index(run) + 1, rest)
                return i + 1
        assert end == n_tokens, f"sequence {sequence} has {end} tokens, not {n_tokens}"
        return len(self._runs[sequence])
