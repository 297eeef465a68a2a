"""Arrow data on its way into a sandbox: a message and the one segment that it refers to.

A process's arena holds many tables' bytes, and whoever maps a file sees all of it. So what a
sandbox is given lies in a sealed file with nothing else in it: a former sandbox's output, handed on
as it is, or a copy. The copy is the price of isolation until memory can be moved into a file of its
own (KernelZero); it is kept for some seconds after its last use and paid once for each object, also
where that is decoded anew for every task. Copying is done by Arrow's IPC writer, which leaves out
the rows of a slice's parent.
"""

import os
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from zerrow_store import forks, threads
from zerrow_store.forks import Lock
from zerrow_store.native import _native
from zerrow_store.sandbox import stats
from zerrow_store.sandbox.sealed import Sealed, find
from zerrow_store.sandbox.values import ARROW_DATA

_KEEP_SECONDS = 5.0
_KEEP_BYTES = 4 << 30


@dataclass(frozen=True)
class Input:
    """Arrow data that a sandbox may be given."""

    message: bytes
    segment: Sealed


class _Kept:
    """A copy in the cache. It pins what it was copied from, or the memory could become another's
    while the key still stands for it."""

    def __init__(self, made: Input, source: _native.Encoded) -> None:
        self.made = made
        self.source = source
        self.used = time.monotonic()

    def release(self) -> None:
        _unpin(self.source)


_lock = Lock()
_kept: dict[bytes, _Kept] = {}
_thread_pid = 0


def prepare(value: Any) -> Input:
    """Return Arrow data as an input. Raises MemoryError, OSError, ValueError (see `encode`)."""
    encoded = _native.encode(value)
    kept_pinned = False
    try:
        if (ready := _as_it_lies(encoded)) is not None:
            return ready
        with _lock:
            if (kept := _kept.get(encoded.message)) is not None:
                kept.used = time.monotonic()
                stats.count(bytes_shared=kept.made.segment.size)
                return kept.made
        made = _copy(value)
        if encoded.bytes_copied == 0:  # else the same object will have another key next time
            _keep(encoded.message, _Kept(made, encoded))
            kept_pinned = True
        return made
    finally:
        if not kept_pinned:
            _unpin(encoded)


def forget() -> None:
    """Let go of all copies."""
    with _lock:
        dropped = list(_kept.values())
        _kept.clear()
    for kept in dropped:
        kept.release()


def _as_it_lies(encoded: _native.Encoded) -> Input | None:
    if encoded.own or len(encoded.foreign) != 1:
        return None
    segment = find(encoded.foreign[0][0])
    if segment is None or segment.exclusive != encoded.message:
        return None
    stats.count(bytes_shared=encoded.bytes_reshared)
    return Input(encoded.message, segment)


def _copy(value: Any) -> Input:
    schema, batches = _batches(value)
    size = _written(pa.MockOutputStream(), schema, batches)
    fd = os.memfd_create("zerrow-input", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        with pa.OSFile(f"/proc/self/fd/{fd}", "wb") as file:
            _written(file, schema, batches)
    except BaseException:
        os.close(fd)
        raise
    segment = Sealed(fd, size)
    copied = _restored(_native.view(segment.id, 0, size, segment), value)
    encoded = _native.encode(copied)
    _unpin(encoded)  # what little Arrow's reader allocated is in the message
    if encoded.own:
        raise ValueError("Arrow's reader did not leave the data where it lies")
    segment.exclusive = encoded.message
    stats.count(bytes_copied=size)
    return Input(encoded.message, segment)


def _written(sink: Any, schema: pa.Schema, batches: Sequence[pa.RecordBatch]) -> int:
    with pa.ipc.new_stream(sink, schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
    return int(sink.tell())


def _batches(value: Any) -> tuple[pa.Schema, list[pa.RecordBatch]]:
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


_VIEWS = ((pa.string_view(), pa.large_string()), (pa.binary_view(), pa.large_binary()))


def _without_other_rows(column: Any) -> Any:
    """Views refer to data that may be other rows', which Arrow's IPC writer takes along."""
    for view, plain in _VIEWS:
        if column.type == view:
            return column.cast(plain).cast(view)
    return column


def _restored(buffer: pa.Buffer, like: Any) -> Any:
    table = pa.ipc.open_stream(buffer).read_all()
    if isinstance(like, pa.Table):
        return table
    if isinstance(like, pa.RecordBatch):
        return pa.ipc.open_stream(buffer).read_next_batch()
    column = table.column(0)
    if isinstance(like, pa.ChunkedArray):
        return column
    return column.chunk(0)


def needs_segment(value: Any) -> bool:
    """Whether a value is Arrow data that goes by reference; small data goes along with the call,
    where a segment would cost more."""
    # Not by its nbytes, which pyarrow up to 23 does not know of views.
    return isinstance(value, ARROW_DATA) and _native.reaches(value, 32 << 10)


def compact(value: Any) -> tuple[bytes, str]:
    """Return small Arrow data as IPC stream and kind, without the rows of a slice's parent."""
    sink = pa.BufferOutputStream()
    _written(sink, *_batches(value))
    kinds = [kind.__name__ for kind in ARROW_DATA if isinstance(value, kind)]
    return sink.getvalue().to_pybytes(), kinds[0]


def restore(stream: bytes, kind: str) -> Any:
    """Return what `compact` was given."""
    reader = pa.ipc.open_stream(pa.py_buffer(stream))
    if kind == "RecordBatch":
        return reader.read_next_batch()
    table = reader.read_all()
    if kind == "Table":
        return table
    return table.column(0) if kind == "ChunkedArray" else table.column(0).chunk(0)


def _keep(key: bytes, kept: _Kept) -> None:
    global _thread_pid
    with _lock:
        previous = _kept.pop(key, None)
        _kept[key] = kept
        if _thread_pid != os.getpid():
            _thread_pid = os.getpid()
            threads.start(_expire, name="zerrow-inputs")
    if previous is not None:
        previous.release()
    _drop_expired()


def _drop_expired() -> None:
    now = time.monotonic()
    with _lock:
        by_age = sorted(_kept.items(), key=lambda item: item[1].used)
        total = sum(kept.made.segment.size for kept in _kept.values())
        dropped = []
        for key, kept in by_age:
            if now - kept.used > _KEEP_SECONDS or total > _KEEP_BYTES:
                total -= kept.made.segment.size
                dropped.append(_kept.pop(key))
    for kept in dropped:
        kept.release()


def _expire() -> None:
    while True:
        time.sleep(1.0)
        _drop_expired()


def _unpin(encoded: _native.Encoded) -> None:
    offsets = [offset for offset, _ in struct.iter_unpack("<QQ", encoded.own)]
    _native.unpin(struct.pack(f"<{len(offsets)}Q", *offsets))


def _after_fork_in_child() -> None:
    _kept.clear()  # the pins are the parent's


forks.register(in_child=_after_fork_in_child)
