"""Objects that somebody wants on disk before memory is short; and bytes that idle objects share."""

import gc
import os
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from tests.helpers.stores import Store
from tests.helpers.waiting import wait_until
from zerrow_store.client.client import Client
from zerrow_store.errors import StoreFullError

ROWS = 1 << 20
NBYTES = 8 * ROWS


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """A store that holds eight tables."""
    monkeypatch.setenv("ZERROW_SPILL_DIR", str(tmp_path))
    started = Store(f"ahead-{os.getpid()}-{os.urandom(4).hex()}", budget=8 * NBYTES)
    yield started
    started.stop()


def make(n: int) -> pa.Table:
    return pa.table({"x": pc.add(pa.array(range(ROWS)), n)})


def wait_for_spilled(client: Client, tables: int) -> None:
    wait_until(lambda: client.stats().bytes_spilled == tables * NBYTES)


def test_they_go_though_memory_is_not_short_and_come_back(store: Store) -> None:
    client = store.connect()
    ids = [client.put(make(n)) for n in range(3)]
    client.spill_ahead([*ids[:2], b"never seen"])
    wait_for_spilled(client, 2)
    assert client.stats().bytes_stored == NBYTES
    for n, object_id in enumerate(ids):
        assert client.get(object_id).equals(make(n))
    assert [record.returned for record in client.evictions()] == [True] * len(client.evictions())


def test_what_is_read_goes_when_its_last_view_does(store: Store) -> None:
    client = store.connect()
    read, other = client.put(make(0)), client.put(make(1))
    view = client.get(read)
    client.spill_ahead([read, other])
    wait_for_spilled(client, 1)
    assert view.equals(make(0))
    del view
    gc.collect()
    wait_for_spilled(client, 2)


def test_who_begins_to_read_takes_it_back(store: Store) -> None:
    # In a process of its own: what earlier stores had of this one's arena stays pinned, and counts.
    producer = store.worker()
    put = f"client.put(pa.table({{'x': pa.array(range({ROWS}))}}))"
    wanted, other = producer.do(f"[{put} for _ in range(2)]")
    client = store.connect()
    view = client.get(wanted)
    client.spill_ahead([wanted])
    again = client.get(wanted)
    del view, again
    gc.collect()
    wait_until(lambda: not any(info.holds for info in client.list()))
    # One after the other: were the first still wanted there, it would have gone before.
    client.spill_ahead([other])
    wait_for_spilled(client, 1)
    assert client.stats().bytes_stored == NBYTES


def test_a_disk_that_fails_leaves_them_in_memory(store: Store, tmp_path: Path) -> None:
    client = store.connect()
    object_id = client.put(make(0))
    tmp_path.rename(tmp_path.with_name("gone"))
    client.spill_ahead([object_id])
    assert client.get(object_id).equals(make(0))
    assert client.stats().bytes_spilled == 0


def test_what_a_held_object_shares_can_go_once_it_is_idle(store: Store) -> None:
    client, reader = store.connect(), store.worker()
    table = make(0)
    shared = client.put(table)
    also = client.put(table.rename_columns(["y"]))
    del table
    reader.do(f"table = client.get({also!r})")
    held: list[pa.Table] = []

    def fill() -> None:
        while True:
            held.append(client.get(client.put(make(1 + len(held)))))

    # As long as one of the two is read, nothing of the other can go.
    with pytest.raises(StoreFullError):
        fill()
    assert len(held) >= 7
    reader.do("del table; gc.collect()")
    wait_until(lambda: sum(info.holds for info in client.list()) == len(held))
    assert client.get(client.put(make(50))).equals(make(50))
    assert client.get(shared).equals(make(0))
