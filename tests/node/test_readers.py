"""Readers that live on without a connection, for however long: what they read stays as it is."""

import os
import selectors
import signal
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from tests.helpers.processes import kill
from tests.helpers.python import Worker
from tests.helpers.stores import Away, Store
from tests.helpers.waiting import wait_until
from zerrow_store import Client, StoreFullError
from zerrow_store.processes import start_time
from zerrow_store.protocol import events
from zerrow_store.server import readers
from zerrow_store.server.effects import Effects
from zerrow_store.server.readers import Readers
from zerrow_store.server.state import State

ROWS = 2_000_000
BUDGET = 128 << 20
TOTAL = sum(range(ROWS)) + ROWS


def make(start: int) -> pa.Table:
    return pa.table({"x": pc.add(pa.array(range(ROWS)), start)})


@pytest.fixture
def small(name: str) -> Iterator[Store]:
    """A store with room for seven tables."""
    made = Store(name, budget=BUDGET)
    yield made
    made.stop()


@pytest.fixture
def reader(small: Store) -> Worker:
    return small.worker()


def read(reader: Worker, object_id: bytes) -> None:
    reader.do(f"view = client.get({object_id!r})")


def let_go(reader: Worker) -> None:
    reader.do("del view\ngc.collect()")


def is_right(reader: Worker) -> bool:
    return bool(reader.do("pc.sum(view['x']).as_py()") == TOTAL)


def stop(reader: Worker) -> None:
    os.kill(reader.pid, signal.SIGSTOP)


def go_on(reader: Worker) -> None:
    os.kill(reader.pid, signal.SIGCONT)


def lose_connection(reader: Worker) -> None:
    """The connection ends under a reader, which is stopped before it sees that."""
    reader.start("""
        import signal
        with client._connection._lock:
            client._connection._socket.shutdown(2)
            os.kill(os.getpid(), signal.SIGSTOP)
    """)


def overwrite(client: Client) -> None:
    """Have whatever memory is free written to."""
    for start in range(3):
        client.delete(client.put(make(100 + start)))


def test_a_reader_that_was_stopped_while_the_store_crashed(small: Store, reader: Worker) -> None:
    other = small.worker()
    client = small.connected()
    object_id = client.put(make(1))
    read(reader, object_id)
    read(other, object_id)
    stop(reader)
    kill(small.server_pid())
    client.delete(object_id)
    assert is_right(other)
    let_go(other)  # it is not the last one, for all that is known
    # Nothing is evicted. Who needs room is told so, sooner or later.
    with pytest.raises(StoreFullError):  # noqa: PT012
        for start in range(BUDGET // (8 * ROWS) + 1):
            client.put(make(200 + start))
    go_on(reader)
    assert is_right(reader)
    assert client.put(make(1))  # idle objects make room now
    let_go(reader)
    wait_until(lambda: client.stats().objects == sum(each.holds == 0 for each in client.list()))
    client.delete([each.object_id for each in client.list()])
    wait_until(lambda: client.stats().bytes_stored == 0)


def test_a_reader_that_was_stopped_when_it_lost_its_connection(
    small: Store, reader: Worker
) -> None:
    client = small.connected()
    object_id = client.put(make(1))
    read(reader, object_id)
    wait_until(lambda: client.list()[0].holds == 1)
    lose_connection(reader)
    wait_until(lambda: client.stats().clients == 1)
    client.delete(object_id)
    overwrite(client)
    assert client.stats().bytes_stored == 8 * ROWS
    go_on(reader)
    reader.finish()
    assert reader.do("client.stats().objects") == 0  # it has returned
    overwrite(client)
    assert is_right(reader)
    let_go(reader)
    wait_until(lambda: client.stats().bytes_stored == 0)


@pytest.mark.parametrize("crash", [False, True], ids=["alone", "with the store"])
def test_a_reader_that_does_not_return_because_it_ends(
    small: Store, reader: Worker, crash: bool
) -> None:
    client = small.connected()
    object_id = client.put(make(1))
    read(reader, object_id)
    if crash:
        stop(reader)
        kill(small.server_pid())
    else:
        lose_connection(reader)
        wait_until(lambda: client.stats().clients == 1)
    client.delete(object_id)
    assert client.stats().bytes_stored == 8 * ROWS
    os.kill(reader.pid, signal.SIGKILL)
    wait_until(lambda: client.stats().bytes_stored == 0)


@pytest.mark.parametrize("at", ["present", "away", "as it goes"])
def test_a_reader_that_has_closed_its_client_is_not_waited_for(standalone: str, at: str) -> None:
    """Its process lives on. away: the store is; as it goes: that has not been seen yet."""
    client, reader = Client(standalone), Worker()
    reader.do(f"""
        import gc, os
        import zerrow_store
        client = zerrow_store.connect({standalone!r})
    """)
    object_id = client.put(make(1))
    read(reader, object_id)
    if at == "present":
        reader.do("client.close()")
    else:
        stop(reader)
        away = Away(standalone)
        if at == "away":
            go_on(reader)
            reader.do("import time\nwhile client._connection._socket is not None: time.sleep(0.01)")
            reader.do("client.close()")
        else:
            reader.start("client.close()")
            go_on(reader)
            reader.finish()
        away.back()
    client.delete(object_id)
    wait_until(lambda: client.stats().bytes_stored == 0)
    reader.kill()
    client.close()


def test_a_crash_is_forgotten_when_all_have_returned(small: Store, reader: Worker) -> None:
    """What is deleted goes at once again, time after time."""
    client = small.connected()
    for start in range(3):
        object_id = client.put(make(start))
        reader.do(f"view = client.get({object_id!r})")
        kill(small.server_pid())
        reader.do("client.stats().pid")
        client.delete(object_id)
        reader.do("del view\ngc.collect()")
        wait_until(lambda: client.stats().bytes_stored == 0)


# --- without a server ---


class End:
    """A connection as `Readers` sees it."""

    def __init__(self, pid: int, identity: bytes = b"reader") -> None:
        self.pid = pid
        self.identity = identity
        self.holds: Counter[bytes] = Counter()


class Lifetimes:
    """What readers need of it."""

    def __init__(self) -> None:
        self.released: Counter[bytes] = Counter()
        self.ends = 0

    def release(self, object_id: bytes, count: int) -> None:
        self.released[object_id] += count

    def end_orphans(self) -> None:
        self.ends += 1


@pytest.fixture
def lifetimes() -> Lifetimes:
    return Lifetimes()


@pytest.fixture
def state() -> State:
    return State(Effects(), 1 << 20)


@pytest.fixture
def known(state: State, lifetimes: Any) -> Readers:
    return Readers(state, lifetimes, selectors.DefaultSelector())


def test_without_a_descriptor_its_end_is_watched_for_later(known, lifetimes, monkeypatch) -> None:
    child = Worker()
    connection = End(child.pid)
    known.came(connection)
    known.returned(connection)
    connection.holds[b"object"] = 2
    with monkeypatch.context() as patch:
        patch.setattr(readers, "open_pidfd", _no_descriptors)
        known.dropped(connection)
        known.tick()
    assert not lifetimes.released
    child.kill()
    known.tick()
    assert lifetimes.released == {b"object": 2}


def _no_descriptors(pid: int) -> int:
    raise OSError(24, "Too many open files")


def test_who_returns_before_the_end_of_the_old_connection_was_seen(known, lifetimes) -> None:
    old, new = End(os.getpid()), End(os.getpid())
    for connection in old, new:
        known.came(connection)
        connection.holds[b"object"] = 1
        known.returned(connection)
    known.dropped(old)
    assert lifetimes.released == {b"object": 1}
    known.said_goodbye(new)
    assert lifetimes.released == {b"object": 2}


def test_a_pid_that_is_another_processs_now(known: Readers, state: State) -> None:
    state.table.apply(events.ReaderAdded(b"reader", os.getpid(), 1))
    known.restored()
    assert state.all_returned()
    assert not state.table.readers


def test_one_that_has_ended_is_not_taken_for_the_last_one(known, state, lifetimes) -> None:
    """When the object table come back, the first reader in them has ended, and the second lives."""
    ended = Worker()
    for identity, pid in (b"ended", ended.pid), (b"lives", os.getpid()):
        state.table.apply(events.ReaderAdded(identity, pid, start_time(pid)))
    ended.kill()
    known.restored()
    assert not state.all_returned()
    assert lifetimes.ends == 0
    known.said_goodbye(End(os.getpid(), b"lives"))
    assert state.all_returned()
    assert lifetimes.ends == 1


@pytest.mark.parametrize("named", [False, True])
def test_who_cannot_be_seen_loses_all_with_the_connection(known, lifetimes, named: bool) -> None:
    """A client that has not named itself, and one in a process namespace of its own."""
    connection = End(0 if named else os.getpid(), b"reader" if named else b"")
    known.came(connection)
    known.returned(connection)
    connection.holds[b"object"] = 1
    known.dropped(connection)
    assert lifetimes.released == {b"object": 1}
    known.tick()
