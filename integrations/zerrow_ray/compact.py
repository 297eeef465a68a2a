"""Pickling slices of Arrow data that Ray repairs for tables only.

Pickling a 10-row slice of a RecordBatch, ChunkedArray or Array ships every row of its buffers. Here
the slice is first copied, through Arrow's IPC format, and the copy is pickled in its place. The
reader restores the same data as without the plugin. A slice whose type does not survive the format
(a dictionary of dictionaries, an extension type that is not registered here) is pickled as it is.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa

_WORTHWHILE = 4096
"""A copy has to save these bytes, and half of what would be shipped."""


def reduce_compact(value: pa.RecordBatch | pa.ChunkedArray | pa.Array) -> tuple[Any, ...]:
    """Reduce `value` for pickle as its own `__reduce__` does, without what a slice leaves out."""
    if value.get_total_buffer_size() > _WORTHWHILE:
        value = _compacted(value)
    reduced: tuple[Any, ...] = value.__reduce__()
    return reduced


def _compacted(value: Any) -> Any:
    """Return a copy with its own buffers; `value` itself if that saves little, or is impossible."""
    batches = _as_batches(value)
    try:
        # Pickle writes a buffer that chunks share once for each chunk. `nbytes` is of no use here:
        # it includes all values behind a list view.
        shipped = sum(batch.get_total_buffer_size() for batch in batches)
        needed = sum(map(pa.ipc.get_record_batch_size, batches))
        if shipped <= 2 * needed + _WORTHWHILE:
            return value
        if not _survives_ipc(batches[0].schema):
            return value
        batches = _through_ipc(batches)
    except pa.ArrowException:  # out of memory, or nested too deep for IPC
        return value
    if isinstance(value, pa.RecordBatch):
        return batches[0]
    chunks = [batch.column(0) for batch in batches]
    return pa.chunked_array(chunks) if isinstance(value, pa.ChunkedArray) else chunks[0]


def _as_batches(value: Any) -> list[pa.RecordBatch]:
    if isinstance(value, pa.RecordBatch):
        return [value]
    chunks = value.chunks if isinstance(value, pa.ChunkedArray) else [value]
    return [pa.record_batch([chunk], names=[""]) for chunk in chunks]


def _survives_ipc(schema: pa.Schema) -> bool:
    try:
        return bool(pa.ipc.read_schema(schema.serialize()).equals(schema, check_metadata=True))
    except Exception:  # Arrow's, or whatever an extension type raises when it is restored
        return False


def _through_ipc(batches: list[pa.RecordBatch]) -> list[pa.RecordBatch]:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batches[0].schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
    with pa.ipc.open_stream(sink.getvalue()) as reader:
        return list(reader)
