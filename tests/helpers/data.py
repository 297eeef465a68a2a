"""Tables and arrays to store."""

import pyarrow as pa
import pyarrow.compute as pc

MIB = 1 << 20


def table(rows: int = 100_000, start: int = 0) -> pa.Table:
    """A table of two int64 columns, born in the arena."""
    base = pa.array(range(start, start + rows), pa.int64())
    return pa.table({"x": base, "y": pc.multiply(base, 2)})


def table_of(nbytes: int, start: int = 0) -> pa.Table:
    """A table of one column of so many bytes, no two words the same."""
    return pa.table({"x": pc.add(pa.array(range(nbytes // 8), pa.int64()), start)})
