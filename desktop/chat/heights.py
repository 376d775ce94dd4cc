"""Heights of rows as a Fenwick tree: where a row begins and which row lies at a place, in O(log n)."""

from __future__ import annotations

from collections.abc import Iterable


class Heights:
    """A list of row heights in pixels with fast sums. Rows are changed and appended in O(log n)."""

    def __init__(self, heights: Iterable[int] = ()) -> None:
        self._values: list[int] = []
        self._tree: list[int] = [0]
        self.reset(heights)

    def __len__(self) -> int:
        return len(self._values)

    def __getitem__(self, row: int) -> int:
        return self._values[row]

    @property
    def total(self) -> int:
        return self.top(len(self._values))

    def reset(self, heights: Iterable[int]) -> None:
        """Replace all rows, in O(n)."""
        self._values = list(heights)
        tree = [0, *self._values]
        for index in range(1, len(tree)):
            parent = index + (index & -index)
            if parent < len(tree):
                tree[parent] += tree[index]
        self._tree = tree

    def append(self, height: int) -> None:
        self._values.append(height)
        index = len(self._values)
        node = height
        step = 1
        while step < index & -index:
            node += self._tree[index - step]
            step <<= 1
        self._tree.append(node)

    def truncate(self, count: int) -> None:
        """Drop the rows from `count` on. Nodes of the rows that stay never cover a dropped row."""
        del self._values[count:]
        del self._tree[count + 1 :]

    def set(self, row: int, height: int) -> None:
        change = height - self._values[row]
        if not change:
            return
        self._values[row] = height
        index = row + 1
        while index < len(self._tree):
            self._tree[index] += change
            index += index & -index

    def top(self, row: int) -> int:
        """The sum of the heights above `row`; `row` may be the number of rows."""
        total = 0
        while row > 0:
            total += self._tree[row]
            row -= row & -row
        return total

    def row_at(self, y: int) -> int:
        """The row that covers pixel `y`: the first one above, the last one below all. -1 without rows."""
        if y < 0:
            return 0 if self._values else -1
        index = 0
        bit = 1 << len(self._values).bit_length()
        rest = y
        while bit:
            following = index + bit
            if following < len(self._tree) and self._tree[following] <= rest:
                index = following
                rest -= self._tree[following]
            bit >>= 1
        return min(index, len(self._values) - 1)
