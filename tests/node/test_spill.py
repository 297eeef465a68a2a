"""Spilling to disk: what is idle goes, what is read stays, and everything comes back equal."""

import ctypes
import gc
import os
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from tests.helpers.arena import resident
from tests.helpers.peers import SEGMENT, Raw, shared_file
from tests.helpers.processes import kill, spilled_files
from tests.helpers.small_store import BUDGET, NBYTES, ROWS, make
from tests.helpers.stores import Store
from tests.helpers.waiting import wait_until
from zerrow_store.budget import HIGH_WATERMARK
from zerrow_store.errors import StoreFullError
from zerrow_store.server.effects import Effects
from zerrow_store.server.spill import Spiller
from zerrow_store.server.state import State


def test_many_times_the_budget_fits_and_comes_back_equal(small: Store) -> None:
    client = small.connect()
    before = resident()
    ids = [client.put(make(n)) for n in range(32)]
    stats = client.stats()
    assert stats.bytes_stored <= BUDGET
    assert stats.bytes_stored + stats.bytes_spilled == 32 * NBYTES
    wait_until(lambda: resident() - before <= 2 * BUDGET)
    for n, object_id in enumerate(ids):
        table = client.get(object_id)
        table.validate(full=True)
        assert table.equals(make(n))
    assert client.stats().bytes_copied == 0


def test_an_arena_that_its_producer_truncated_stops_nothing(small: Store) -> None:
    """Its bytes are lost; what goes to disk with them is not, and the disk is not to blame."""
    hostile, fd = Raw(small.name), shared_file(0o400)
    assert hostile.ask("attach", [SEGMENT, 1 << 20], [fd])[0] == "reply"
    own = struct.pack("<2Q", 0, 1 << 20)
    assert hostile.ask("put", [b"cut", own, [], None, False, False, [0, 0, 0]])[0] == "reply"
    os.ftruncate(fd, 4096)
    client = small.connect()
    ids = [client.put(make(n)) for n in range(32)]
    for n, object_id in enumerate(ids):
        assert client.get(object_id).equals(make(n))
    assert client.stats().bytes_spilled > 0
    hostile.close()
    os.close(fd)


def test_what_is_read_stays_where_it_is(small: Store) -> None:
    client = small.connect()
    first = client.put(make(0))
    reader = small.worker()
    reader.do(f"table = client.get({first!r})")
    for n in range(1, 32):
        client.put(make(n))
    assert client.stats().bytes_spilled > 0
    assert reader.do("pc.unique(table['x']).to_pylist()") == [7]
    assert reader.do("table.validate(full=True)") is None
    # And what the producer itself reads.
    own = client.put(make(100))
    view = client.get(own)
    for n in range(32):
        client.put(make(n))
    assert view.equals(make(100))


def test_the_longest_idle_goes_first(small: Store) -> None:
    # In a process of its own: what earlier stores had of this one's arena stays pinned, and counts.
    producer = small.worker()
    put = f"client.put(pa.table({{'x': pc.add(pa.array(range({ROWS})), 1)}}))"
    # What a table is made of beside these five does not make memory short yet.
    old, fresh, *_ = producer.do(f"[{put} for _ in range(5)]")
    client = small.connect()
    view = client.get(old)
    del view
    gc.collect()
    wait_until(lambda: next(o for o in client.list() if o.object_id == old).holds == 0)
    producer.do(f"[{put} for _ in range(3)]")
    wait_until(lambda: client.stats().bytes_spilled > 0)
    moved = {i: client.hold(i).moved for i in (old, fresh)}
    assert moved[fresh]
    assert not moved[old]


def test_nothing_goes_for_what_its_producer_keeps_warm(
    disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A producer gives up so much that the store has no reason to."""
    monkeypatch.setenv("ZERROW_DECAY_MS", "1000000")
    store = Store(f"spill-{os.urandom(4).hex()}", budget=BUDGET)
    try:
        worker = store.worker()
        worker.do(f"""
            from zerrow_store.memory.buffers import allocate
            small = [allocate(n) for n in range(64, 32 << 10, 256)]
            for n in range(6):
                client.put(pa.table({{"x": pc.add(pa.array(range({ROWS})), n)}}))
        """)
        wait_until(lambda: store.memory() <= HIGH_WATERMARK * BUDGET)
        assert store.connected().stats().bytes_spilled == 0
    finally:
        store.stop()


def test_spilled_data_is_shared_again_without_a_copy(small: Store) -> None:
    client = small.connect()
    ids = [client.put(make(n)) for n in range(16)]
    assert client.hold(ids[0]).moved
    table = client.get(ids[0])
    before = client.stats()
    again = client.put(table.append_column("y", table["x"]))
    after = client.stats()
    assert after.bytes_copied == before.bytes_copied
    assert after.bytes_shared == before.bytes_shared
    del table
    client.delete(ids[0])
    assert client.get(again)["y"].equals(make(0)["x"])


def test_what_several_objects_share_is_spilled_once(small: Store) -> None:
    client = small.connect()
    table = make(0)
    ids = [client.put(table.slice(n)) for n in range(4)]
    del table
    for n in range(16):
        client.put(make(n))
    assert {tuple(client.hold(i).moved) for i in ids} == {tuple(client.hold(ids[0]).moved)}
    assert client.hold(ids[0]).moved
    for n, object_id in enumerate(ids):
        assert client.get(object_id).equals(make(0).slice(n))
    for object_id in ids[:3]:
        client.delete(object_id)
    assert client.get(ids[3]).num_rows == ROWS - 3


def test_a_deleted_object_frees_its_disk(small: Store) -> None:
    client = small.connect()
    ids = [client.put(make(n)) for n in range(32)]
    assert spilled_files(small.server_pid())
    client.delete(ids)
    wait_until(lambda: client.stats().bytes_spilled == 0)
    assert client.stats().bytes_stored == 0
    wait_until(lambda: not spilled_files(small.server_pid()))


def test_a_killed_store_loses_nothing(small: Store, disk: Path) -> None:
    client = small.connect()
    ids = [client.put(make(n)) for n in range(16)]
    view = client.get(ids[0])
    kill(client.stats().pid)
    for n, object_id in enumerate(ids):
        assert client.get(object_id).equals(make(n))
    assert view.equals(make(0))
    assert list(disk.iterdir()) == []


def test_a_killed_producer_loses_nothing(small: Store) -> None:
    client = small.connect()
    producer = small.worker()
    (object_id,) = producer.do(
        f"[client.put(pa.table({{'x': pc.add(pa.array(range({ROWS})), 1)}}))]"
    )
    for n in range(16):
        client.put(make(n))
    assert client.hold(object_id).moved
    producer.kill()
    assert client.get(object_id)["x"].to_pylist() == list(range(1, ROWS + 1))


def test_held_objects_alone_fill_the_store(small: Store) -> None:
    client = small.connect()
    views: list[pa.Table] = []

    def fill() -> None:
        while True:
            views.append(client.get(client.put(make(len(views)))))

    with pytest.raises(StoreFullError) as caught:
        fill()
    # One that the server looked at between its put and its get was idle, and has been spilled.
    assert len(views) * NBYTES - client.stats().bytes_spilled == BUDGET
    assert caught.value.needed == NBYTES
    assert caught.value.budget == BUDGET
    assert all(view.equals(make(n)) for n, view in enumerate(views))
    views.clear()
    gc.collect()
    wait_until(lambda: all(info.holds == 0 for info in client.list()))
    assert client.get(client.put(make(50))).equals(make(50))


def test_an_object_beyond_the_budget_is_refused_at_once(small: Store) -> None:
    client = small.connect()
    with pytest.raises(StoreFullError):
        client.put(pa.concat_tables([make(n) for n in range(9)]))
    assert client.stats().bytes_stored == 0


def test_without_a_directory_nothing_is_spilled(monkeypatch: pytest.MonkeyPatch) -> None:
    for setting in ("off", "/dev/shm", "/nonexistent"):
        monkeypatch.setenv("ZERROW_SPILL_DIR", setting)
        store = Store(f"spill-{os.urandom(4).hex()}", budget=BUDGET)
        try:
            client = store.connect()
            for n in range(8):
                client.put(make(n))
            with pytest.raises(StoreFullError):
                client.put(make(8))
            assert client.stats().bytes_spilled == 0
        finally:
            store.stop()


@pytest.fixture
def spiller(tmp_path: Path) -> Iterator[Spiller]:
    """One without a server."""
    made = Spiller(tmp_path, State(Effects(), BUDGET))
    yield made
    for fd in (made.done, made._finished):
        os.close(fd)


@pytest.mark.parametrize("unnamed", [True, False])
def test_files_are_their_owners_and_have_no_names(
    spiller: Spiller, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unnamed: bool
) -> None:
    # Also on file systems that cannot make them so.
    monkeypatch.setattr(tempfile, "_O_TMPFILE_WORKS", unnamed)
    fd = spiller._open(1 << 20)
    status = os.fstat(fd)
    assert (status.st_mode & 0o777, status.st_nlink) == (0o600, 0)
    assert (status.st_size, status.st_blocks * 512) == (1 << 20, pytest.approx(1 << 20, abs=8192))
    assert list(tmp_path.iterdir()) == []
    assert not os.get_inheritable(fd)
    os.close(fd)


def test_how_fast_a_disk_is_read_is_learned_with_decay(spiller: Spiller) -> None:
    before = spiller.read_bandwidth
    for speed in (100e6, 2e9):
        for n in range(1, 8):
            spiller.was_read(1 << 20, (1 << 20) / speed)
            assert spiller.read_bandwidth == pytest.approx(speed + (before - speed) / 2**n)
        before = spiller.read_bandwidth
    assert spiller.seconds(1 << 30) > (1 << 30) / 2.1e9


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_a_full_disk_is_a_full_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image, mounted = tmp_path / "image", tmp_path / "mounted"
    mounted.mkdir()
    with open(image, "wb") as file:
        file.truncate(48 << 20)
    assert os.system(f"mkfs.ext4 -q {image} && mount -o loop {image} {mounted}") == 0
    try:
        monkeypatch.setenv("ZERROW_SPILL_DIR", str(mounted))
        store = Store(f"spill-{os.urandom(4).hex()}", budget=BUDGET)
        try:
            client = store.connect()
            ids: list[bytes] = []

            def fill() -> None:
                while True:
                    ids.append(client.put(make(len(ids))))

            with pytest.raises(StoreFullError):
                fill()
            # As much as fits, also where more was to go at once.
            assert 3 * NBYTES <= client.stats().bytes_spilled < 48 << 20
            for n, object_id in enumerate(ids):
                assert client.get(object_id).equals(make(n))
        finally:
            store.stop()
    finally:
        ctypes.CDLL(None).umount2(str(mounted).encode(), 2)


def test_puts_of_several_at_once_are_all_let_in(small: Store) -> None:
    workers = [small.worker() for _ in range(4)]
    for worker in workers:
        worker.start(
            f"ids = [client.put(pa.table({{'x': pc.add(pa.array(range({ROWS})), n)}}))"
            " for n in range(8)]"
        )
    for worker in workers:
        worker.finish()
    stats = small.connected().stats()
    assert stats.objects == 32
    assert stats.bytes_stored <= BUDGET
    for worker in workers:
        sums = worker.do("[pc.sum(client.get(i)['x']).as_py() for i in ids]")
        assert sums == [sum(range(ROWS)) + n * ROWS for n in range(8)]
