"""Files that several cases read, made once and kept."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.tpch import tpch


def lineitem(scale: str) -> Path:
    """Return TPC-H's lineitem as most people would have it: plain strings, for which Arrow has a
    filter (the generator's are string views), and floats for the decimals.
    """
    path = tpch(scale) / "lineitem-plain.parquet"
    if not path.exists():
        table = pq.read_table(path.with_name("lineitem.parquet"))
        unfinished = path.with_suffix(".partial")
        pq.write_table(plain_types(table), unfinished, row_group_size=1 << 17)
        unfinished.rename(path)
    return path


def plain_types(table: pa.Table) -> pa.Table:
    """Return the table with strings for string views, and floats for decimals."""
    fields = [
        field.with_type(pa.float64()) if pa.types.is_decimal(field.type) else field
        for field in table.schema
    ]
    return plain_strings(table.cast(pa.schema(fields)))


def plain_strings(table: pa.Table) -> pa.Table:
    """Return the table with strings for string views."""
    fields = [
        field.with_type(pa.string()) if field.type == pa.string_view() else field
        for field in table.schema
    ]
    return table.cast(pa.schema(fields))
