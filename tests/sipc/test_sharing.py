"""What is stored, what is referred to, what is copied."""

import fcntl
import os
import pickle
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from tests.helpers.publishing import Publisher, capture_numpy, edges, ranges, stored
from zerrow_store.native import _native

ROWS = 100_000


def numbers(rows: int = ROWS) -> pa.Array:
    """Integers in memory that can be shared."""
    return pc.add(pa.array(range(rows), pa.int64()), 0)


@pytest.fixture
def decoded(publisher: Publisher) -> pa.Table:
    table = pa.table(
        {"a": numbers(), "b": pc.multiply(numbers(), 2), "s": pc.cast(numbers(), pa.string())}
    )
    return publisher.trip(table)


def size(encoded: _native.Encoded) -> int:
    return sum(size for _, _, size in stored(encoded))


def test_captured_memory_is_shared(publisher: Publisher) -> None:
    encoded = publisher.encode(pa.table({"a": numbers()}))
    assert encoded.bytes_copied <= edges(encoded)
    assert encoded.bytes_shared + encoded.bytes_copied == size(encoded) >= ROWS * 8
    assert _native.message_allocations(encoded.message) == stored(encoded)
    assert _native.message_segments(encoded.message) == list({s for s, _, _ in stored(encoded)})
    assert [segment for segment, _ in encoded.foreign] == [
        segment for segment in {s for s, _, _ in stored(encoded)} if not encoded.own
    ]


def test_one_buffer_in_three_columns_is_stored_once(publisher: Publisher) -> None:
    array = numbers()
    one = publisher.encode(pa.table({"a": array}))
    three = publisher.encode(pa.table({"a": array, "b": array, "c": array}))
    assert stored(three) == stored(one)
    assert three.bytes_shared == one.bytes_shared + one.bytes_copied


@pytest.mark.parametrize(
    "change",
    [
        lambda table: table.select(["s"]),
        lambda table: table.slice(1000, 10),
        lambda table: pa.concat_tables([table, table]),
        lambda table: table.rename_columns(["x", "y", "z"]),
        lambda table: table.to_batches()[0].slice(3, 7),
        lambda table: table.column("s"),
        lambda table: table.column("s").chunk(0).slice(99),
    ],
    ids=["select", "slice", "concat", "rename", "batch", "chunked array", "array"],
)
def test_views_of_decoded_data_store_nothing(
    publisher: Publisher, decoded: pa.Table, change: Callable[[pa.Table], Any]
) -> None:
    encoded = publisher.encode(change(decoded))
    assert encoded.own == b""
    assert (encoded.bytes_shared, encoded.bytes_copied) == (0, 0)
    assert encoded.bytes_reshared > 0
    published = {s for s, _, _ in decoded_from(publisher)}
    assert {segment for segment, _ in encoded.foreign} <= published


def decoded_from(publisher: Publisher) -> list[tuple[bytes, int, int]]:
    """What the first message of a test published."""
    return stored(publisher.published[0])


def test_select_refers_to_the_selected_only(publisher: Publisher, decoded: pa.Table) -> None:
    one, all_ = publisher.encode(decoded.select(["a"])), publisher.encode(decoded)
    assert len(ranges(one.foreign[0][1])) < len(ranges(all_.foreign[0][1]))


def test_append_column_stores_the_new_one(publisher: Publisher, decoded: pa.Table) -> None:
    new = numbers(1000).take(pa.array(np.zeros(ROWS, np.int64)))
    before = set(decoded_from(publisher))
    encoded = publisher.encode(decoded.append_column("new", new))
    alone = publisher.encode(pa.table({"new": new}))
    assert set(stored(encoded)) - before == set(stored(alone))
    assert encoded.bytes_copied <= edges(alone)


def test_sharing_survives_numpy(publisher: Publisher, decoded: pa.Table) -> None:
    array = decoded.column("a").chunk(0).to_numpy()[1000:2000]
    del decoded
    encoded = publisher.encode(pa.array(array))
    assert (encoded.own, encoded.bytes_copied) == (b"", 0)
    assert _native.decode(encoded.message, None).to_pylist() == list(range(1000, 2000))


def test_sharing_survives_polars(publisher: Publisher, decoded: pa.Table) -> None:
    polars = pytest.importorskip("polars")
    frame = polars.from_arrow(decoded.select(["a", "b"]))
    encoded = publisher.encode(frame.to_arrow())
    assert (encoded.own, encoded.bytes_copied) == (b"", 0)


def test_sharing_survives_the_c_data_interface(publisher: Publisher, decoded: pa.Table) -> None:
    class Exported:
        def __init__(self, table: pa.Table) -> None:
            self.table = table

        def __arrow_c_stream__(self, requested_schema: object = None) -> object:
            return self.table.__arrow_c_stream__(requested_schema)

    table = pa.table(Exported(decoded))
    encoded = publisher.encode(table)
    assert (encoded.own, encoded.bytes_copied) == (b"", 0)
    assert _native.decode(encoded.message, None).equals(decoded)


def test_memory_from_elsewhere_is_copied_once(publisher: Publisher) -> None:
    data = np.arange(ROWS, dtype=np.int64).tobytes()
    column = pa.Array.from_buffers(pa.int64(), ROWS, [None, pa.py_buffer(data)])
    encoded = publisher.encode(pa.table({"a": column, "b": column}))
    assert encoded.bytes_copied == len(data) == size(encoded)
    assert encoded.bytes_shared == 0
    assert _native.decode(encoded.message, None).column("b").chunk(0).equals(column)


def test_a_slice_of_memory_from_elsewhere_is_cut_out(publisher: Publisher) -> None:
    data = np.arange(ROWS, dtype=np.int64).tobytes()
    column = pa.Array.from_buffers(pa.int64(), ROWS, [None, pa.py_buffer(data)])
    encoded = publisher.encode(column.slice(500, 100))
    assert encoded.bytes_copied < 10_000
    assert encoded.bytes_shared == 0
    assert _native.decode(encoded.message, None).to_pylist() == list(range(500, 600))


def test_small_buffers_travel_in_the_message(publisher: Publisher) -> None:
    column = pa.Array.from_buffers(pa.int8(), 5, [None, pa.py_buffer(b"\1\2\3\4\5")])
    encoded = publisher.encode(column)
    assert encoded.own == b""
    assert encoded.bytes_copied == 5
    assert _native.decode(encoded.message, None).to_pylist() == [1, 2, 3, 4, 5]


def test_pins_end_with_unpin(publisher: Publisher) -> None:
    before = _native.arena_stats()["pinned"]
    encoded = publisher.encode(pa.table({"a": numbers()}))
    own = sum(size for _, size in ranges(encoded.own))
    assert _native.arena_stats()["pinned"] == before + own
    publisher.close()
    assert _native.arena_stats()["pinned"] == before


def test_a_failed_encode_pins_nothing() -> None:
    before = _native.arena_stats()["pinned"]
    deep = pa.field("x", pa.int8())
    for _ in range(100):
        deep = pa.field("x", pa.struct([deep]))
    table = pa.table({"a": numbers(1), "deep": pa.nulls(1, deep.type)})
    with pytest.raises(ValueError, match="nested more than 64 deep"):
        _native.encode(table)
    assert _native.arena_stats()["pinned"] == before


def test_decoded_data_is_read_only(decoded: pa.Table) -> None:
    assert not decoded.column("a").chunk(0).to_numpy().flags.writeable
    assert not any(
        buffer.is_mutable for buffer in decoded.column("s").chunk(0).buffers() if buffer is not None
    )


def test_a_raw_write_faults() -> None:
    script = """
        import ctypes
        import pyarrow as pa
        from zerrow_store.native import _native
        _native.capture_arrow(True)
        array = pa.array(range(100_000))
        decoded = _native.decode(_native.encode(array).message, None)
        print("writing", flush=True)
        ctypes.memset(decoded.buffers()[1].address, 1, 8)
        print("written", flush=True)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True
    )
    assert done.returncode == -signal.SIGSEGV, done.stderr
    assert done.stdout == "writing\n"


# Long because what the other process does is a text in it.
def test_another_process_reads(publisher: Publisher) -> None:
    table = pa.table({"a": numbers(), "d": pc.cast(numbers(), pa.string()).dictionary_encode()})
    message = publisher.encode(table).message
    files = _native.moved_files(_native.message_segments(message), 10)
    ((segment, fd, size),) = files or [_native.arena_segment()]
    given = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY)  # as the store hands it out
    script = """
        import sys
        import pyarrow.compute as pc
        from zerrow_store.native import _native
        segment, fd, size = bytes.fromhex(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
        message = sys.stdin.buffer.read()
        try:
            _native.decode(message, None)
        except _native.SipcError as error:
            assert segment.hex() in str(error), error
        else:
            raise AssertionError("decoded without its segment")
        _native.map_segment(segment, fd, size)
        _native.map_segment(segment, fd, size)
        table = _native.decode(message, None)
        table.validate(full=True)
        again = _native.encode(table)
        assert again.own == b"" and again.foreign[0][0] == segment
        assert not _native.unmap_segment(segment)
        print(pc.sum(table["a"]).as_py(), table["d"].chunk(0)[-1].as_py())
        del table, again
        assert _native.unmap_segment(segment)
        assert _native.mapped_segments() == []
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), segment.hex(), str(given), str(size)],
        input=message,
        capture_output=True,
        pass_fds=[given],
    )
    os.close(given)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.decode().split() == [str(sum(range(ROWS))), str(ROWS - 1)]
    for _, fd, _ in files:
        os.close(fd)


def test_relocated_allocations(publisher: Publisher) -> None:
    array = numbers()
    message = publisher.encode(array).message
    elsewhere, moved = os.urandom(16), []
    fd = os.memfd_create("copy", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    size = 0
    for segment, offset, length in _native.message_allocations(message):
        data = _native.view(segment, offset, length, None)
        os.pwrite(fd, data, size)
        moved.append((elsewhere, size))
        size += length
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
    _native.map_segment(elsewhere, fd, size)
    os.close(fd)
    decoded = _native.decode(message, None, moved)
    assert decoded.equals(array)
    again = publisher.encode(decoded)
    assert [segment for segment, _ in again.foreign] == [elsewhere]
    with pytest.raises(_native.SipcError, match="relocation"):
        _native.decode(message, None, [*moved, (elsewhere, 0)])
    with pytest.raises(_native.SipcError, match="outside segment"):
        _native.decode(message, None, [(elsewhere, size)] * len(moved))
    del decoded, again
    publisher.close()
    assert _native.unmap_segment(elsewhere)


def test_numpy_memory_written_after_publication_is_copied(publisher: Publisher) -> None:
    capture_numpy(True)
    try:
        array = np.arange(ROWS)
    finally:
        capture_numpy(False)
    first = publisher.encode(pa.array(array))
    assert first.bytes_shared + first.bytes_copied == array.nbytes
    assert first.bytes_copied <= edges(first)
    published = _native.decode(first.message, None)
    array[:] = -1
    second = publisher.encode(pa.array(array))
    assert second.bytes_copied == array.nbytes
    assert _native.decode(second.message, None).to_numpy()[-1] == -1
    assert np.array_equal(published.to_numpy(), np.arange(ROWS))


def test_pickle_5_buffers_are_shared(publisher: Publisher) -> None:
    capture_numpy(True)
    try:
        array = np.arange(ROWS)
    finally:
        capture_numpy(False)
    buffers: list[pickle.PickleBuffer] = []
    header = pickle.dumps([array, "text"], protocol=5, buffer_callback=buffers.append)
    encoded = publisher.encode_buffers(header, list(buffers))
    assert encoded.bytes_shared + encoded.bytes_copied == array.nbytes
    assert encoded.bytes_copied <= edges(encoded)
    header, decoded = _native.decode(encoded.message, None)
    again, text = pickle.loads(header, buffers=decoded)
    assert text == "text"
    assert np.array_equal(again, array)
    assert not again.flags.writeable
    # And what was decoded is referred to where it lies.
    assert publisher.encode_buffers(b"", decoded).own == b""
