"""What is moved into files at publication, and what its owner and allocator see afterwards."""

import fcntl
import gc
import mmap
import os
import resource
import threading

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from tests.helpers.moved_memory import (
    PAGE,
    mappings_of_moved_files,
    moved_descriptors,
    publish,
    through,
)
from tests.helpers.publishing import edges, moved
from zerrow_store.memory.buffers import allocate
from zerrow_store.native import _native

pytestmark = pytest.mark.usefixtures("moving")

ROWS = 100_000


def array(rows: int = ROWS) -> pa.Array:
    return pc.add(pa.array(np.arange(rows)), 1)


def test_only_what_is_published_is_moved() -> None:
    data = array()
    _native.decode(_native.encode(data).message, None)
    assert _native.deanon_stats()["moved"] == 0
    encoded = publish(data)
    assert encoded.own == b""
    assert (_native.deanon_stats()["moved"], len(moved(encoded))) == (data.nbytes, 1)
    assert encoded.bytes_copied <= edges(encoded)


def test_the_owner_reads_the_same_where_it_lay() -> None:
    data, expected = array(), array().to_pylist()
    address = data.buffers()[1].address
    encoded = publish(data)
    pages = -(-data.nbytes // PAGE) * PAGE
    assert mappings_of_moved_files() == [(address, address + pages)]
    assert data.buffers()[1].address == address
    assert data.to_pylist() == expected == through(encoded).to_pylist()


def test_freed_memory_is_anonymous_again_and_zero_when_asked_for() -> None:
    for round_ in range(20):
        values = np.full(1 << 20, 1 + round_, np.uint8)
        encoded = publish(pa.array(values))
        assert len(mappings_of_moved_files()) == 1
        decoded = through(encoded)
        del values, encoded
        assert mappings_of_moved_files() == []
        assert not np.zeros(1 << 20, np.uint8).any()
        # And what others read is in the file for good.
        np.empty(1 << 20, np.uint8)[:] = 255
        assert pc.min_max(decoded).as_py() == {"min": 1 + round_, "max": 1 + round_}


def test_files_are_closed_with_the_last_that_needs_them() -> None:
    data = array()
    encoded = publish(data)
    assert len(moved_descriptors()) == _native.deanon_stats()["files"] == 1
    segment = encoded.foreign[0][0]
    del encoded
    assert len(moved_descriptors()) == 1
    del data
    assert moved_descriptors() == []
    assert _native.moved_files([segment], 10) == []
    assert _native.deanon_stats() == {"tracked": 0, "moved": 0, "files": 0, "not_returned": 0}


@pytest.mark.parametrize("where", [0, 1, ROWS // 2, ROWS - 1])
def test_what_the_owner_writes_later_is_its_own(where: int) -> None:
    """Also on the edges, which stay the owner's own memory."""
    values = np.arange(ROWS)
    first = publish(pa.array(values))
    values[where] = -1
    second = publish(pa.array(values))
    assert second.bytes_copied == values.nbytes
    assert through(first)[where].as_py() == where
    assert through(second)[where].as_py() == -1
    _native.unpin(second.own[:8])


def test_published_again_it_is_not_moved_again() -> None:
    data = array()
    table = pa.table({"a": data.slice(7, 100), "b": data.slice(500, 100)})
    first, second = publish(data), publish(table)
    assert moved(second) == moved(first)
    assert (second.bytes_copied, second.bytes_shared) == (0, data.nbytes)
    assert through(second).equals(table)


def test_what_was_decoded_and_its_original_are_one_allocation() -> None:
    data = array()
    decoded = through(publish(data))
    both = publish(pa.table({"original": data, "decoded": decoded}))
    assert len(both.foreign) == 1
    assert len(both.foreign[0][1]) == 16
    assert through(both).equals(pa.table({"original": data, "decoded": data}))


def test_without_being_asked_moved_memory_is_copied() -> None:
    data = array()
    encoded = publish(data)
    copied = _native.encode(data)
    assert (copied.bytes_copied, copied.foreign) == (data.nbytes, [])
    _native.unpin(copied.own[:8])
    assert through(encoded).equals(data)


def test_moved_memory_can_be_resized() -> None:
    buffer = allocate(1 << 20, resizable=True)
    np.frombuffer(buffer, np.uint8)[:] = 7
    encoded = publish(pa.Array.from_buffers(pa.uint8(), 1 << 20, [None, buffer]))
    for size in (3 << 20, 2 << 20, 1 << 16):
        buffer.resize(size, shrink_to_fit=True)
        assert (np.frombuffer(buffer, np.uint8)[: 1 << 16] == 7).all()
    assert (through(encoded).to_numpy() == 7).all()
    assert mappings_of_moved_files() == []

    values = np.full(1 << 20, 7, np.uint8)
    encoded = publish(pa.array(values))
    values.resize(3 << 20, refcheck=False)
    assert (values[: 1 << 20] == 7).all()
    assert not values[1 << 20 :].any()
    assert (through(encoded).to_numpy() == 7).all()
    assert mappings_of_moved_files() == []


def test_a_moved_file_can_neither_be_written_nor_truncated() -> None:
    data = array()
    encoded = publish(data)
    ((_, fd, size),) = _native.moved_files([encoded.foreign[0][0]], 10)
    writable = os.open(f"/proc/self/fd/{fd}", os.O_RDWR)
    for change in (
        lambda: os.pwrite(writable, b"x", 0),
        lambda: os.ftruncate(writable, 0),
        lambda: os.ftruncate(writable, size + PAGE),
        lambda: mmap.mmap(writable, size, mmap.MAP_SHARED, mmap.PROT_WRITE),
        lambda: fcntl.fcntl(writable, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE),
    ):
        with pytest.raises(PermissionError):
            change()
    os.close(writable)
    os.close(fd)
    assert through(encoded).equals(data)


def test_no_byte_beside_a_buffer_gets_into_the_file() -> None:
    for _ in range(20):
        before, data, after = (np.full(70_001, n, np.uint8) for n in (101, 102, 103))
        encoded = publish(pa.array(data))
        ((_, fd, size),) = _native.moved_files([encoded.foreign[0][0]], 10)
        found = set(os.pread(fd, size, 0))
        os.close(fd)
        assert found <= {0, 102}
        assert (before == 101).all()
        assert (after == 103).all()


def test_large_tables_go_into_several_files() -> None:
    table = pa.table({f"c{i}": array(1 << 20) for i in range(5)})
    encoded = publish(table)
    assert len(encoded.foreign) == 3  # of 16 MiB or the rest
    assert through(encoded).equals(table)
    # So what is selected does not hold all of it.
    segments = {segment for segment, _ in publish(table.select(["c0"])).foreign}
    assert len(segments) == 1


def test_what_came_from_many_publications_is_partly_copied() -> None:
    """A message can carry only so many descriptors to the store."""
    parts = [array(10_000) for _ in range(150)]
    single = [publish(part) for part in parts]
    table = pa.table({"a": pa.chunked_array(parts)})
    encoded = publish(table)
    assert 90 < len(encoded.foreign) < 100
    assert through(encoded).equals(table)
    _native.unpin(b"".join(encoded.own[i : i + 8] for i in range(0, len(encoded.own), 16)))
    assert len(single) == len(moved_descriptors())


@pytest.mark.parametrize("left", [-1, 0])
def test_out_of_descriptors_it_is_copied(left: int) -> None:
    data = array()
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    open_now = len(os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (open_now + left, limits[1]))
    try:
        encoded = publish(data)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert (encoded.bytes_copied, encoded.foreign) == (data.nbytes, [])
    _native.unpin(encoded.own[:8])
    assert publish(data).bytes_copied < data.nbytes


def test_beyond_the_largest_file_it_is_copied() -> None:
    """Where the kernel would send SIGXFSZ."""
    data = array()
    _native.arena_segment()  # is made, and takes the copy
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, limits[1]))
    try:
        encoded = publish(data)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (encoded.bytes_copied, encoded.foreign) == (data.nbytes, [])
    _native.unpin(encoded.own[:8])


def test_memory_of_others_is_copied() -> None:
    polars = pytest.importorskip("polars")
    frame = polars.DataFrame({"a": range(ROWS)}).to_arrow()
    encoded = publish(frame)
    assert encoded.bytes_copied >= ROWS * 8
    assert encoded.foreign == []
    _native.unpin(b"".join(encoded.own[i : i + 8] for i in range(0, len(encoded.own), 16)))


def test_many_threads_publish_and_free_at_once() -> None:
    data = [array()]
    failures = []

    def work(seed: int) -> None:
        (shared,) = data
        for step in range(15):
            mine = np.full(100_000 + seed * 1000 + step, seed, np.uint8)
            encoded = publish(pa.table({"m": pa.array(mine)}))
            both = publish(shared)
            del mine
            fresh = np.zeros(100_000, np.uint8)
            if (
                fresh.any()
                or pc.min_max(through(encoded)["m"]).as_py() != {"min": seed, "max": seed}
                or not through(both).equals(shared)
            ):
                failures.append((seed, step))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    data.clear()
    gc.collect()
    assert mappings_of_moved_files() == []
    assert _native.deanon_stats()["moved"] == 0


def test_a_forked_child_has_what_its_parent_moved() -> None:
    data = array()
    encoded = publish(data)
    expected = data.to_pylist()
    child = os.fork()
    if child == 0:
        ok = data.to_pylist() == expected and moved(publish(data)) == moved(encoded)
        more = array()
        ok = ok and through(publish(more)).equals(more)
        del data, more
        gc.collect()
        os._exit(0 if ok and not np.zeros(ROWS * 8, np.uint8).any() else 1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert data.to_pylist() == expected == through(encoded).to_pylist()


def test_memory_shared_with_a_child_is_copied_by_the_kernel_and_right() -> None:
    data = array()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(writing)
        os.read(reading, 1)  # until the parent has published
        os._exit(0 if data.equals(array()) else 1)
    os.close(reading)
    encoded = publish(data)
    assert encoded.bytes_shared + encoded.bytes_copied == data.nbytes
    assert through(encoded).equals(data)
    os.close(writing)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
