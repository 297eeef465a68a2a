"""Arrow's allocations have more room than was asked for, so that they lie side by side.

What lies behind a buffer moves along, and must not show what was there before.
"""

import gc
import os

import numpy as np
import pyarrow as pa
import pytest

from tests.helpers.moved_memory import PAGE, mappings_of_moved_files, publish, through
from tests.helpers.pyarrows import PYARROW
from zerrow_store.memory.buffers import allocate
from zerrow_store.native import _native

pytestmark = pytest.mark.usefixtures("moving")

# Its room is 80 KiB: part of a page is left, and three whole ones.
SIZE, ROOM = 66_048, 80 << 10
SECRET = 101


def filled(value: int, size: int = SIZE) -> pa.ResizableBuffer:
    buffer = allocate(size, resizable=True)
    np.frombuffer(buffer, np.uint8)[:] = value
    return buffer


def column(buffer: pa.Buffer) -> pa.Array:
    return pa.Array.from_buffers(pa.uint8(), buffer.size, [None, buffer])


def behind(buffer: pa.Buffer) -> np.ndarray:
    """Return what lies in the room of a buffer, behind it."""
    rest = pa.foreign_buffer(buffer.address + SIZE, ROOM - SIZE)
    return np.frombuffer(rest, np.uint8)


def in_files(encoded: _native.Encoded) -> set[int]:
    """Return all values of bytes that whoever gets the files could read."""
    found: set[int] = set()
    for _, fd, size in _native.moved_files([segment for segment, _ in encoded.foreign], 100):
        found |= set(os.pread(fd, size, 0))
        os.close(fd)
    return found


def test_what_was_there_before_is_not_readable() -> None:
    spoiled: list[pa.ResizableBuffer] = []
    while len(spoiled) <= 20:  # where the machine is short of memory it goes at once, and is zero
        freed = [filled(SECRET, ROOM) for _ in range(200)]
        del freed
        buffers = [filled(7) for _ in range(200)]
        spoiled += [buffer for buffer in buffers if (behind(buffer) == SECRET).all()]
    encoded = publish(pa.table({str(i): column(buffer) for i, buffer in enumerate(spoiled)}))
    assert encoded.bytes_copied == 0
    assert in_files(encoded) == {0, 7}
    assert not any(behind(buffer).any() for buffer in spoiled)
    for got in through(encoded).columns:
        assert got.chunk(0).equals(column(spoiled[0]))


def test_nor_is_what_the_owner_has_cut_off() -> None:
    buffer = filled(SECRET, 80_000)
    buffer.resize(SIZE, shrink_to_fit=True)
    np.frombuffer(buffer, np.uint8)[:] = 7
    assert behind(buffer)[0] == SECRET
    assert in_files(publish(column(buffer))) == {0, 7}


def test_neighbours_are_one_mapping_in_whatever_order_they_are_published() -> None:
    buffers = [filled(1 + i) for i in range(120)]
    order = np.random.default_rng(0).permutation(120)
    assert mappings_of_moved_files() == []
    encoded = publish(pa.table({str(i): column(buffers[i]) for i in order}))
    assert encoded.bytes_copied == 0
    assert encoded.bytes_shared == 120 * SIZE
    assert len(encoded.foreign) == 1
    mappings = mappings_of_moved_files()
    assert sum(end - start for start, end in mappings) == 120 * ROOM
    if PYARROW > 19:  # whose mimalloc leaves a gap behind each block
        assert len(mappings) < 60  # the allocator has other things there, too
    got = through(encoded)
    for i in order:
        assert got[str(i)].chunk(0).equals(column(buffers[i]))
    # Each goes on its own, and is anonymous again.
    del buffers[::2]
    gc.collect()
    assert sum(end - start for start, end in mappings_of_moved_files()) == 60 * ROOM
    for i, buffer in zip(range(1, 120, 2), buffers, strict=True):
        assert (np.frombuffer(buffer, np.uint8) == 1 + i).all()


@pytest.mark.parametrize("size", [65_536, SIZE, 200_000, 524_288, 524_352, 3_000_000])
def test_no_byte_is_copied(size: int) -> None:
    buffer = filled(7, size)
    assert buffer.address % PAGE == 0
    encoded = publish(column(buffer))
    assert (encoded.bytes_copied, encoded.bytes_shared) == (0, -(-size // 64) * 64)


def known() -> int:
    return _native.deanon_stats()["tracked"]


def test_resizing_keeps_bytes_and_statistics() -> None:
    pattern = np.arange(16_384, dtype=np.uint32).view(np.uint8)
    counted, before = pa.total_allocated_bytes(), known()  # NumPy's are known, too
    buffer = allocate(SIZE, resizable=True)
    np.frombuffer(buffer, np.uint8)[: pattern.size] = pattern
    for size in (80_000, SIZE, ROOM, ROOM + 64, 1 << 20, 70_016, 600_000, 65_536, 1024, 80_000):
        buffer.resize(size, shrink_to_fit=True)
        kept = min(size, pattern.size)
        assert (np.frombuffer(buffer, np.uint8)[:kept] == pattern[:kept]).all()
        pattern = pattern[:kept]
        assert known() - before == (size if size >= 65_536 else 0)
        assert pa.total_allocated_bytes() - counted == size
    del buffer
    assert (pa.total_allocated_bytes(), known()) == (counted, before)


def test_within_its_room_a_buffer_grows_where_it_lies() -> None:
    buffer = filled(7)
    address = buffer.address
    buffer.resize(80_000)
    assert buffer.address == address
    np.frombuffer(buffer, np.uint8)[SIZE:] = 8
    got = through(publish(column(buffer))).to_numpy()
    assert (got == np.repeat([7, 8], [SIZE, 80_000 - SIZE])).all()


def test_what_is_moved_does_not_grow_there() -> None:
    """Its pages are the file's; the owner's growth would be written into what others hold."""
    buffer = filled(7)
    encoded = publish(column(buffer))
    address = buffer.address
    buffer.resize(80_000)
    assert buffer.address != address
    np.frombuffer(buffer, np.uint8)[:] = 8
    assert (through(encoded).to_numpy() == 7).all()
    assert in_files(encoded) == {0, 7}


@pytest.mark.parametrize("where", [0, 4096, SIZE - 1])
def test_a_later_write_is_seen_and_the_owner_s_own(where: int) -> None:
    buffer = filled(7)
    first = publish(column(buffer))
    assert publish(column(buffer)).bytes_copied == 0
    np.frombuffer(buffer, np.uint8)[where] = 8
    second = publish(column(buffer))
    assert second.bytes_copied == SIZE
    assert through(first)[where].as_py() == 7
    assert through(second)[where].as_py() == 8
    _native.unpin(second.own[:8])


def test_an_allocation_that_nobody_could_make_is_an_error() -> None:
    before = known()
    for size in (1 << 62, (1 << 63) - 1):
        with pytest.raises((pa.ArrowMemoryError, pa.ArrowInvalid)):
            allocate(size)
    assert known() == before
