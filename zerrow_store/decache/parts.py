"""The parts of a unit, in the columns that hold them.

A hit is a column of many chunks. Usually a read wants all of them in their order, and gets the
column as it is. The column is cut only for other parts or another order.
"""

from collections.abc import Iterable, Mapping, Sequence

import pyarrow as pa

Chunks = list[pa.Array]
"""A part of a unit; at least one chunk."""

Layout = Sequence[Sequence[int]]
"""(part, number of its chunks), in the order of a column."""


class Parts:
    """The parts of a unit that were fetched so far."""

    def __init__(self) -> None:
        self._columns: list[tuple[pa.ChunkedArray, Layout]] = []
        self._column_of: dict[int, int] = {}
        self._chunks: dict[int, Chunks] = {}

    def add(self, column: pa.ChunkedArray, layout: Layout, parts: Iterable[int]) -> None:
        """Add some parts of a column."""
        self._column_of.update(dict.fromkeys(parts, len(self._columns)))
        self._columns.append((column, layout))

    def add_chunks(self, chunks: Mapping[int, Chunks]) -> None:
        """Add parts that are not in one column."""
        self._chunks.update(chunks)

    def __contains__(self, part: int) -> bool:
        return part in self._chunks or part in self._column_of

    def chunks(self, part: int) -> Chunks:
        """Return the chunks of a part. Raise KeyError for one that was not fetched."""
        if part not in self._chunks:
            column, layout = self._columns[self._column_of[part]]
            self._chunks.update(_cut(column, layout))
        return self._chunks[part]

    def column(self, order: Sequence[int]) -> pa.ChunkedArray:
        """Return at least one part, in this order, as one column. Raise KeyError as `chunks`."""
        if (index := self._column_of.get(order[0])) is not None:
            column, layout = self._columns[index]
            if [part for part, _ in layout] == list(order):
                return column
        return pa.chunked_array([chunk for part in order for chunk in self.chunks(part)])


def _cut(column: pa.ChunkedArray, layout: Layout) -> dict[int, Chunks]:
    chunks = iter(column.chunks)
    return {part: [next(chunks) for _ in range(count)] for part, count in layout}
