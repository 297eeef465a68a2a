"""What spilled files have in the page cache, as the kernel says (mincore)."""

import ctypes
import gc
import mmap
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.processes import spilled_files
from tests.helpers.small_store import BUDGET, NBYTES, make
from tests.helpers.stores import Store
from tests.helpers.waiting import wait_until
from zerrow_store import _disk
from zerrow_store.budget import HIGH_WATERMARK

WINDOW = 8 << 20
_libc = ctypes.CDLL(None, use_errno=True)


@pytest.fixture
def store(disk: Path) -> Iterator[Store]:
    """A store that holds eight tables."""
    made = Store(f"pages-{os.urandom(4).hex()}", budget=BUDGET)
    yield made
    made.stop()


def cached(fd: int) -> int:
    """Bytes of a file that are in the page cache."""
    size = os.fstat(fd).st_size
    with mmap.mmap(fd, size, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE) as mapping:
        view = (ctypes.c_char * size).from_buffer(mapping)
        pages = (ctypes.c_ubyte * -(-size // mmap.PAGESIZE))()
        start = ctypes.c_void_p(ctypes.addressof(view))
        failed = _libc.mincore(start, ctypes.c_size_t(size), pages)
        del view
    assert not failed, os.strerror(ctypes.get_errno())
    return sum(page & 1 for page in pages) * mmap.PAGESIZE


def cached_of(store: Store) -> int:
    """Bytes of a store's spilled files that are in the page cache."""
    total = 0
    for path in spilled_files(store.server_pid()):
        try:
            fd = os.open(path, os.O_RDWR)
        except FileNotFoundError:
            continue  # gone since
        total += cached(fd)
        os.close(fd)
    return total


def test_what_is_written_does_not_stay(tmp_path: Path) -> None:
    source = os.memfd_create("source")
    os.ftruncate(source, 8 * WINDOW)
    target = os.open(tmp_path, os.O_TMPFILE | os.O_RDWR)
    # Allocations of any size, one after the other.
    at, step = 0, 3 * WINDOW // 4 - 64
    while at < 7 * WINDOW:
        _disk.copy(source, at, step, target, at)
        at += step
        assert cached(target) <= 3 * WINDOW
    os.close(source)
    os.close(target)


def test_what_was_read_stays_as_far_as_there_is_room(store: Store) -> None:
    # Another process makes them: this one may have other tests' memory.
    client, producer = store.connected(), store.worker()
    producer.do("from tests.helpers.small_store import make")
    ids = producer.do("[client.put(make(n)) for n in range(32)]")
    assert cached_of(store) <= NBYTES
    for n, object_id in enumerate(ids):
        assert client.get(object_id).equals(make(n))
    gc.collect()
    left = BUDGET * HIGH_WATERMARK
    wait_until(lambda: cached_of(store) <= max(0, left - client.memory().resident) + NBYTES)
    # Nobody keeps anything in memory: all the budget is the page cache's.
    on_disk = [i for i in ids if client.hold(i).moved]
    client.delete([i for i in ids if i not in on_disk])
    gc.collect()
    reader = store.worker()
    few = on_disk[:4]
    wait_until(lambda: client.memory().resident < BUDGET // 2 - 2 * NBYTES)
    reader.do(f"views = [client.get(i) for i in {few!r}]; del views; gc.collect()")
    wait_until(lambda: all(info.holds == 0 for info in client.list()))
    assert cached_of(store) >= 4 * NBYTES


def test_what_somebody_else_reads_stays(store: Store) -> None:
    client, reader = store.connected(), store.worker()
    ids = [client.put(make(n)) for n in range(32)]
    on_disk = [i for i in ids if client.hold(i).moved]
    reader.do(f"view = client.get({on_disk[0]!r})")
    reader.do("view['x'].to_pylist()[:1], pc.sum(view['x']).as_py()")
    for object_id in on_disk:  # this one lets go of it, and of all others
        client.get(object_id)
    gc.collect()
    wait_until(lambda: sum(info.holds for info in client.list()) == 1)
    assert cached_of(store) >= NBYTES
    assert reader.do("view.validate(full=True); pc.unique(view['x']).to_pylist()") == [7]


def test_what_is_about_to_be_read_is_read_ahead(store: Store) -> None:
    client = store.connected()
    ids = [client.put(make(n)) for n in range(32)]
    on_disk = [i for i in ids if client.hold(i).moved]
    gc.collect()
    wait_until(lambda: all(info.holds == 0 for info in client.list()))
    before = cached_of(store)
    client.read_ahead([on_disk[0], b"never seen"])
    wait_until(lambda: cached_of(store) >= before + NBYTES)
    assert client.get(on_disk[0]).num_rows == make(0).num_rows


def test_what_was_read_ahead_says_how_fast_the_disk_is(store: Store) -> None:
    client = store.connected()
    object_id = client.put(make(0))
    gc.collect()
    client.spill_ahead([object_id])
    wait_until(lambda: client.stats().bytes_spilled == NBYTES)
    unknown = client.stats().read_back_bandwidth
    client.read_ahead([object_id])
    wait_until(lambda: client.stats().read_back_bandwidth != unknown)
    measured = client.stats().read_back_bandwidth
    written = client.evictions()[0].seconds
    # It comes from memory: that says nothing of the disk, but is part of what the eviction cost.
    assert client.get(object_id).equals(make(0))
    wait_until(lambda: client.evictions()[0].seconds > written)
    assert client.stats().read_back_bandwidth == measured
    assert client.evictions()[0].returned


def test_what_a_held_object_shares_stays(store: Store) -> None:
    client, reader = store.connected(), store.worker()
    table = make(0)
    ids = [client.put(table.slice(n)) for n in range(2)]
    del table
    gc.collect()
    client.spill_ahead(ids)
    wait_until(lambda: client.stats().bytes_spilled == NBYTES)
    # Nothing of the budget is left for the page cache.
    rest = [client.get(client.put(make(n))) for n in range(1, 8)]
    reader.do(f"view = client.get({ids[0]!r}); pc.sum(view['x']).as_py()")
    reader.do(f"client.get({ids[1]!r}); gc.collect()")
    wait_until(lambda: sum(info.holds for info in client.list()) == 1 + len(rest))
    assert cached_of(store) >= NBYTES
