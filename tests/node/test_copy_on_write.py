"""Buffers that can be written to over data of the store: writes stay with the writer."""

import gc
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from tests.helpers.arena import pinned
from tests.helpers.huge_pages import needs_huge_pages
from tests.helpers.processes import mappings
from tests.helpers.stores import Store
from tests.helpers.waiting import eventually
from zerrow_store.client.client import Client
from zerrow_store.client.copy_on_write import writable
from zerrow_store.native import _native

ROWS = 1_000_000


def computed(start: int = 0) -> pa.Array:
    """Of 8 MB, made by Arrow in this process's arena."""
    return pc.add(pa.array(range(1000)).take(pa.array([5] * ROWS)), start)


def numbers(memory: object) -> np.ndarray:
    return np.frombuffer(memory, np.int64)


def view_of(client: Client, array: pa.Array) -> pa.Array:
    """An array as a reader gets it from the store."""
    return client.get(client.put(array))


def private_kb() -> int:
    """What this process has of memory that is nobody else's."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_Dirty"))


def test_a_write_reaches_nobody(store: Store) -> None:
    client, other = store.connect(), store.worker()
    object_id = client.put(computed())
    view = client.get(object_id)
    (memory,) = writable([view.buffers()[1]], store.name)
    mine = numbers(memory)
    assert isinstance(memory, pa.Buffer)
    assert memory.is_mutable
    assert np.array_equal(mine, view.to_numpy())
    mine += 1
    assert mine[0] == 6
    assert view.equals(computed())
    assert client.get(object_id).equals(computed())
    code = f"pc.sum(client.get({object_id!r})).as_py()"
    assert other.do(code) == 5 * ROWS


def test_nothing_is_copied_before_it_is_written_to(store: Store) -> None:
    view = view_of(store.connect(), computed())
    before = private_kb()
    (memory,) = writable([view.buffers()[1]], store.name)
    mine = numbers(memory)
    assert int(mine.sum()) == 5 * ROWS
    assert private_kb() - before < 1000
    mine[:] = 7
    assert private_kb() - before > 7000


def test_what_this_process_has_computed_is_not_copied_and_not_changed(store: Store) -> None:
    array = computed()
    (memory,) = writable([array.buffers()[1]], store.name)
    assert isinstance(memory, pa.Buffer)
    client = store.connect()
    object_id = client.put(array)
    numbers(memory)[:] = 7
    assert array.equals(computed())
    assert client.get(object_id).equals(computed())


def test_what_numpy_has_made_is_copied(store: Store) -> None:
    values = np.full(ROWS, 5)
    (memory,) = writable([pa.array(values).buffers()[1]], store.name)
    values[:] = 6
    mine = numbers(memory)
    assert mine[0] == 5
    mine[:] = 7
    assert values[0] == 6


def test_slices_begin_anywhere(store: Store) -> None:
    view = view_of(store.connect(), pa.array(np.arange(ROWS)))
    for start in 1, 511, 513, 4096, 70_001:
        part = view.buffers()[1].slice(8 * start, 8 * 500_000)
        (memory,) = writable([part], store.name)
        assert isinstance(memory, pa.Buffer)
        assert np.array_equal(numbers(memory), np.arange(start, start + 500_000))


def test_small_and_empty_buffers_are_copied(store: Store) -> None:
    view = view_of(store.connect(), computed())
    small, empty = (view.buffers()[1].slice(0, size) for size in (800, 0))
    first, second = writable([small, empty], store.name)
    numbers(first)[:] = 7
    assert len(memoryview(second)) == 0
    assert view.equals(computed())


def test_the_bytes_stay_as_long_as_they_are_shown(store: Store) -> None:
    before = pinned(), mappings(os.getpid())
    client = store.connect()
    object_id = client.put(computed())
    view = client.get(object_id)
    (memory,) = writable([view.buffers()[1]], store.name)
    del view
    client.delete(object_id)
    gc.collect()
    junk = [computed(n) for n in range(1, 4)]  # would take the memory if it were free
    assert (numbers(memory) == 5).all()
    assert client.stats().bytes_stored > 0
    del memory, junk
    eventually(lambda: client.stats().bytes_stored == 0, "the object is freed", seconds=20)
    eventually(lambda: pinned() == before[0], "it is unpinned", seconds=20)


def test_many_columns_of_another_process(store: Store) -> None:
    client, maker = store.connect(), store.worker()
    object_id = maker.do(f"""
        x = pa.array(range(1000)).take(pa.array([5] * {ROWS}))
        client.put(pa.table({{str(n): pc.add(x, n) for n in range(20)}}))
    """)
    table = client.get(object_id)
    open_before = len(os.listdir("/proc/self/fd"))
    memories = writable([c.chunk(0).buffers()[1] for c in table.columns], store.name)
    assert len(os.listdir("/proc/self/fd")) == open_before
    for n, memory in enumerate(memories):
        assert isinstance(memory, pa.Buffer)
        mine = numbers(memory)
        assert (mine == 5 + n).all()
        mine[:] = 0
    assert [pc.sum(c).as_py() for c in table.columns] == [(5 + n) * ROWS for n in range(20)]


def test_what_was_spilled(small: Store) -> None:
    client = small.connect()
    ids = [client.put(computed(n)) for n in range(16)]
    assert client.stats().bytes_spilled > 0
    for n, object_id in enumerate(ids):
        view = client.get(object_id)
        (memory,) = writable([view.buffers()[1]], small.name)
        mine = numbers(memory)
        assert (mine == 5 + n).all()
        mine[:] = 0
        assert view.equals(computed(n))
        del view, memory, mine
    for n, object_id in enumerate(ids):
        assert client.get(object_id).equals(computed(n))


@pytest.mark.parametrize("store_of_it", [None, "no such store"])
def test_without_the_store_it_is_copied(store: Store, store_of_it: str | None) -> None:
    maker = store.worker()
    object_id = maker.do(f"client.put(pa.array(range(1000)).take(pa.array([5] * {ROWS})))")
    view = store.connect().get(object_id)
    (memory,) = writable([view.buffers()[1]], store_of_it)
    numbers(memory)[:] = 7
    assert view.equals(computed())


def test_what_is_published_of_it_is_its_writers_snapshot(store: Store) -> None:
    client = store.connect()
    view = view_of(client, computed())
    (memory,) = writable([view.buffers()[1]], store.name)
    mine = numbers(memory)
    mine[:] = 8
    object_id = client.put(pa.array(mine))
    mine[:] = 9
    assert client.get(object_id)[0].as_py() == 8
    assert view.equals(computed())


@needs_huge_pages
def test_reading_it_takes_huge_pages(store: Store) -> None:
    view = view_of(
        store.connect(), pc.add(pa.array(range(1000)).take(pa.array([5] * 8_000_000)), 0)
    )
    (memory,) = writable([view.buffers()[1]], store.name)
    faults = _faults()
    assert int(numbers(memory).sum()) == 40_000_000
    assert _faults() - faults < 64_000_000 / 4096 / 4


def _faults() -> int:
    return int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[7])


def test_where_buffers_lie(store: Store) -> None:
    own_id, fd, _ = _native.arena_segment()
    buffer = computed().buffers()[1]
    segment, offset = _native.locate(buffer)
    assert segment == own_id
    assert os.pread(fd, 8, offset) == (5).to_bytes(8, "little")
    assert _native.locate(buffer.slice(80)) == (segment, offset + 80)
    assert _native.locate(pa.py_buffer(b"x" * 100_000)) is None
    assert _native.locate(pa.array(np.arange(ROWS)).buffers()[1]) is None
    with pytest.raises(OSError, match="Bad file descriptor"):
        _native.map_privately(buffer, -1, 0)
