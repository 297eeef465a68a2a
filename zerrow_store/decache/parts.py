"""A unit's parts as `fetch` returns them: in the columns that hold them, not cut into chunks.

A hit is a column of many chunks that are usually all wanted, in their order: it is handed on as it
is. It is cut only for who wants other parts, or another order.
"""

from collections.abc import Iterable, Mapping, Sequence

import pyarrow as pa

Chunks = list[pa.Array]
"""A part of a unit; one chunk at least."""

Layout = Sequence[Sequence[int]]
"""(part, number of its chunks) in a column's order."""


class Parts:
    """The parts of a unit that were found so far."""

    def __init__(self) -> None:
        self._columns: list[tuple[pa.ChunkedArray, Layout]] = []
        self._column_of: dict[int, int] = {}
        self._chunks: dict[int, Chunks] = {}

    def add(self, column: pa.ChunkedArray, layout: Layout, parts: Iterable[int]) -> None:
        """Enter some of the parts that a column holds."""
        self._column_of.update(dict.fromkeys(parts, len(self._columns)))
        self._columns.append((column, layout))

    def add_chunks(self, chunks: Mapping[int, Chunks]) -> None:
        """Enter parts that are not in one column."""
        self._chunks.update(chunks)

    def __contains__(self, part: int) -> bool:
        return part in self._chunks or part in self._column_of

    def chunks(self, part: int) -> Chunks:
        """Return the chunks of a part. Raises KeyError."""
        if part not in self._chunks:
            column, layout = self._columns[self._column_of[part]]
            self._chunks.update(_cut(column, layout))
        return self._chunks[part]

    def column(self, order: Sequence[int]) -> pa.ChunkedArray:
        """Return parts, one at least, in this order, as one column. Raises KeyError."""
        if (index := self._column_of.get(order[0])) is not None:
            column, layout = self._columns[index]
            if [part for part, _ in layout] == list(order):
                return column
        return pa.chunked_array([chunk for part in order for chunk in self.chunks(part)])


def _cut(column: pa.ChunkedArray, layout: Layout) -> dict[int, Chunks]:
    chunks = iter(column.chunks)
    return {part: [next(chunks) for _ in range(count)] for part, count in layout}
