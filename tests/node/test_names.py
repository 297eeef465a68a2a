"""Named objects: found by every process, replaced at once, and there after a crash."""

import os
import signal

import numpy as np
import pyarrow as pa
import pytest

from tests.helpers.arena import pinned
from tests.helpers.data import table
from tests.helpers.processes import kill
from tests.helpers.small_store import make
from tests.helpers.stores import Store, supervisors_of
from tests.helpers.waiting import eventually
from zerrow_store.errors import ObjectExistsError, ObjectNotFoundError, StoreFullError

ROWS = 100_000
NBYTES = table().nbytes


def test_a_name_is_found_by_every_process(store: Store) -> None:
    client, other = store.connect(), store.worker()
    object_id = client.put(table(), name="prices")
    assert client.get_named("prices").equals(table())
    assert other.do("client.get_named('prices')['y'][7].as_py()") == 14
    assert [(info.object_id, info.name) for info in client.list()] == [(object_id, "prices")]
    other.do("client.put(pa.table({'x': [1]}), name='ones')")
    other.kill()  # it was never its maker's alone
    assert client.get_named("ones").to_pydict() == {"x": [1]}


def test_without_the_name_there_is_nothing(client) -> None:
    for missing in client.get_named, client.delete_named:
        with pytest.raises(ObjectNotFoundError, match="no object 'prices' in the store"):
            missing("prices")
    object_id = client.put(table())
    assert [info.name for info in client.list()] == [None]
    client.put(table(), name="prices")
    client.delete_named("prices")
    with pytest.raises(ObjectNotFoundError):
        client.get_named("prices")
    named = client.put(table(), name="prices")
    client.delete(named)
    with pytest.raises(ObjectNotFoundError):
        client.get_named("prices")
    assert [info.object_id for info in client.list()] == [object_id]


def test_a_second_put_replaces_the_object(client) -> None:
    before = pinned()
    first = client.put(table(), name="prices")
    view = client.get_named("prices")
    second = client.put(table(start=1), name="prices")
    assert client.get_named("prices").equals(table(start=1))
    with pytest.raises(ObjectNotFoundError):
        client.get(first)
    assert [info.object_id for info in client.list()] == [second]
    assert view.equals(table())
    assert client.stats().bytes_stored == 2 * NBYTES
    del view
    eventually(lambda: client.stats().bytes_stored == NBYTES, "the first one is freed", seconds=20)
    client.put(table(start=2), name="prices")
    eventually(
        lambda: client.stats().bytes_stored == NBYTES, "the second one is freed at once", seconds=20
    )
    client.delete_named("prices")
    eventually(lambda: client.stats().bytes_stored == 0, "nothing is left", seconds=20)
    eventually(lambda: pinned() == before, "all is unpinned", seconds=20)


def test_a_put_that_fails_leaves_what_has_the_name(client) -> None:
    object_id = client.put(table(), name="prices")
    with pytest.raises(ObjectExistsError):
        client.put(table(start=1), name="prices", object_id=object_id)
    too_much = pa.table({"x": np.zeros((1 << 30) // 8 + 1)})
    with pytest.raises(StoreFullError):
        client.put(too_much, name="prices")
    assert client.get_named("prices").equals(table())


@pytest.mark.parametrize("wrong", ["", "x" * 1025, "\udc80", b"prices", 7])
def test_what_is_no_name(client, wrong) -> None:
    before = pinned()
    for action in lambda: client.put(table(), name=wrong), lambda: client.get_named(wrong):
        with pytest.raises((TypeError, ValueError)):
            action()
    assert client.list() == []
    eventually(lambda: pinned() == before, "nothing stays pinned", seconds=20)


def test_any_text_is_a_name(client) -> None:
    names = ["ä/ö\0 \U0001f40d", "x" * 1024, " "]
    for n, name in enumerate(names):
        client.put(table(start=n), name=name)
    for n, name in enumerate(names):
        assert client.get_named(name).equals(table(start=n))


def test_readers_find_one_or_the_other_while_it_is_replaced(store: Store) -> None:
    client, reader = store.connect(), store.worker()
    client.put(pa.table({"x": np.full(ROWS, 0)}), name="latest")
    reader.start(f"""
        last, seen = 0, set()
        while last < 200:
            x = client.get_named("latest")["x"]
            now = x[0].as_py()
            assert now >= last and pc.sum(x).as_py() == now * {ROWS}
            last = now
            seen.add(now)
        len(seen)
    """)
    for n in range(1, 201):
        client.put(pa.table({"x": np.full(ROWS, n)}), name="latest")
    assert reader.finish() > 1
    assert len(client.list()) == 1


def test_names_outlive_a_crash_of_the_server(store: Store) -> None:
    client = store.connect()
    client.put(table(), name="kept")
    client.put(table(start=1), name="replaced")
    view = client.get_named("replaced")
    client.put(table(start=2), name="replaced")
    client.put(table(start=3), name="deleted")
    client.delete_named("deleted")
    server = store.server_pid()
    os.kill(server, signal.SIGKILL)
    eventually(lambda: client.stats().pid != server, "the store is back", seconds=20)
    assert client.get_named("kept").equals(table())
    assert client.get_named("replaced").equals(table(start=2))
    with pytest.raises(ObjectNotFoundError):
        client.get_named("deleted")
    assert view.equals(table(start=1))
    client.put(table(start=4), name="kept")
    del view
    eventually(
        lambda: client.stats().bytes_stored == 2 * NBYTES, "what was replaced is freed", seconds=20
    )
    assert sorted(info.name for info in client.list()) == ["kept", "replaced"]


def test_names_reach_a_supervisor_that_comes_later(store: Store) -> None:
    client = store.connect()
    client.put(table(), name="kept")
    view = client.get_named("kept")
    client.put(table(start=1), name="kept")
    eventually(store.is_complete, "the second supervisor is there", seconds=20)
    for spare in supervisors_of(store.name):
        kill(spare)
    eventually(
        lambda: supervisors_of(store.name) and store.is_complete(),
        "there is another supervisor",
        seconds=20,
    )
    server = store.server_pid()
    kill(server)
    eventually(lambda: client.stats().pid != server, "the store is back", seconds=20)
    assert client.get_named("kept").equals(table(start=1))
    assert view.equals(table())


def test_what_is_spilled_is_found_by_its_name(small: Store) -> None:
    client = small.connect()
    for n in range(24):
        client.put(make(n), name=f"table {n}")
    assert client.stats().bytes_spilled > 0
    for n in range(24):
        assert client.get_named(f"table {n}").equals(make(n))
    client.put(pa.table({"x": [1]}), name="table 0")
    assert client.get_named("table 0").to_pydict() == {"x": [1]}
