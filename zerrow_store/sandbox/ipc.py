"""Copies of Arrow data as a stream of Arrow's IPC format.

A copy holds the rows of a slice alone, without the other rows of its parent.
"""

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from zerrow_store.arrow_data import ARROW_DATA

_VIEWS = ((pa.string_view(), pa.large_string()), (pa.binary_view(), pa.large_binary()))


def kind_of(value: Any) -> str:
    """Return the name of the class of Arrow data that `restore` makes of a stream."""
    names: list[str] = [kind.__name__ for kind in ARROW_DATA if isinstance(value, kind)]
    return names[0]


def to_batches(value: Any) -> tuple[pa.Schema, list[pa.RecordBatch]]:
    """Return the schema and the record batches that stand for Arrow data in a stream."""
    if isinstance(value, pa.Table):
        table = value
        for index, field in enumerate(table.schema):
            column = _without_other_rows(table.column(index))
            if column is not table.column(index):
                table = table.set_column(index, field, column)
        return table.schema, table.to_batches()
    if isinstance(value, pa.RecordBatch):
        columns = [_without_other_rows(column) for column in value.columns]
        if not columns:
            return value.schema, [value]
        return value.schema, [pa.RecordBatch.from_arrays(columns, schema=value.schema)]
    chunks = value.chunks if isinstance(value, pa.ChunkedArray) else [value]
    schema = pa.schema([pa.field("", value.type)])
    return schema, [pa.record_batch([_without_other_rows(c)], schema=schema) for c in chunks]


def write(sink: Any, schema: pa.Schema, batches: Sequence[pa.RecordBatch]) -> int:
    """Write record batches to a sink; return the number of bytes."""
    with pa.ipc.new_stream(sink, schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
    return int(sink.tell())


def compact(value: Any) -> tuple[bytes, str]:
    """Return the arguments with which `restore` makes a copy of Arrow data."""
    sink = pa.BufferOutputStream()
    write(sink, *to_batches(value))
    return sink.getvalue().to_pybytes(), kind_of(value)


def restore(stream: bytes | pa.Buffer, kind: str) -> Any:
    """Return the Arrow data in a stream, as a Table, RecordBatch, ChunkedArray or Array."""
    reader = pa.ipc.open_stream(stream)
    if kind == "RecordBatch":
        return reader.read_next_batch()
    table = reader.read_all()
    if kind == "Table":
        return table
    return table.column(0) if kind == "ChunkedArray" else table.column(0).chunk(0)


def _without_other_rows(column: Any) -> Any:
    """Rebuild a view array, whose data buffers Arrow's IPC writer would write whole."""
    for view, plain in _VIEWS:
        if column.type == view:
            return column.cast(plain).cast(view)
    return column
