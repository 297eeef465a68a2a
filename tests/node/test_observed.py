"""What a store tells people of its objects: what carries them, who had to copy, what there was."""

import os

import numpy as np
import pyarrow as pa
import pytest

from tests.helpers.data import table
from tests.helpers.owners import owner
from tests.helpers.processes import kill
from tests.helpers.stores import Store
from tests.helpers.waiting import eventually, wait_until
from zerrow_store.client.observe import ask
from zerrow_store.errors import ProtocolError, StoreUnavailableError
from zerrow_store.protocol import messages as m
from zerrow_store.protocol.reports import ObjectInfo, Sample
from zerrow_store.server.copied_tables import CopiedTables
from zerrow_store.server.history import History

MIB = 1 << 20
PUT = """
    from zerrow_store.native import _native
    owning.publish(b"object", _native.encode(pa.table({"x": pa.array(range(100_000))})), owned=True)
"""


@pytest.fixture
def store(name):
    running = Store(name, budget=1 << 30)
    yield running
    running.stop()


def info(store: Store) -> ObjectInfo:
    (found,) = ask(store.name, m.List())
    return found


def test_what_carries_an_object_outlives_the_server(store):
    anna = owner(store, b"anna")
    anna.do(PUT)
    assert info(store).reference == b""
    assert info(store).pid == anna.do("os.getpid()")
    anna.do("owning.carried([b'object', b'gone already'], b'reference')")
    wait_until(lambda: info(store).reference == b"reference")
    wait_until(store.is_complete)
    kill(store.server_pid())
    wait_until(lambda: info(store).reference == b"reference")
    assert info(store).pid == anna.do("os.getpid()")


def test_a_results_carrier_is_known_from_the_beginning(store):
    anna, producer = owner(store, b"anna"), store.worker()
    producer.do("""
        from zerrow_store.native import _native
        from zerrow_store.protocol.messages import Carrier
        data = pa.table({"x": pc.add(pa.array(range(100_000)), 1)})
        client.publish(b"object", _native.encode(data), carrier=Carrier(b"anna's item", b"anna"))
    """)
    assert info(store).reference == b"anna's item"
    assert info(store).pid == producer.do("os.getpid()")
    anna.do("owning.delete(b'object')")
    assert ask(store.name, m.List()) == []


def test_nobody_else_says_what_carries_an_object(store):
    anna = owner(store, b"anna")
    anna.do(PUT)
    stranger = store.connect()
    stranger.put(table())  # it has a segment of its own
    request = m.Carried([b"object"], b"false")
    with pytest.raises(ProtocolError, match="only the owner"):
        stranger._connection.request(request)
    with pytest.raises(StoreUnavailableError, match="only the owner"):
        ask(store.name, request)
    assert {each.reference for each in ask(store.name, m.List())} == {b""}


def test_a_copied_table_is_noted_with_who_published_it(store):
    client = store.connect()
    client.put(table())
    assert ask(store.name, m.CopiedTables()) == []
    outside = pa.Array.from_buffers(pa.int64(), MIB // 4, [None, pa.py_buffer(bytes(2 * MIB))])
    object_id = client.put(outside)
    (copy,) = ask(store.name, m.CopiedTables())
    assert (copy.object_id, copy.pid, copy.reference) == (object_id, os.getpid(), b"")
    assert copy.copied == 2 * MIB
    assert copy.copied == client.stats().bytes_copied


def test_copies_keep_the_newest_and_what_carries_them():
    copies = CopiedTables()
    for i in range(1200):
        copies.add(b"%d" % i, None, 1, MIB)
    copies.add(b"small", None, 1, MIB - 1)
    copies.carried([b"1199", b"0"], b"reference")
    rows = copies.rows()
    assert [copy.object_id for copy in rows] == [b"%d" % i for i in range(200, 1200)]
    assert [copy.reference for copy in rows if copy.reference] == [b"reference"]


def test_the_history_is_fine_of_the_last_hour_and_coarse_of_the_last_day():
    history, days = History(), 3
    for second in range(0, days * 86_400, 1):
        history.tick(float(second), lambda second=second: Sample(second, *[0] * 8))
    times = np.array([row.when for row in history.rows()])
    assert (np.diff(times) > 0).all()
    last = days * 86_400 - 1
    assert last - times[-1] < 5
    assert (np.diff(times[times > last - 3600]) == 5).all()
    assert 23 * 3600 < last - times[0] <= 24 * 3600
    assert set(np.diff(times[times < last - 3700])) == {120}


def test_the_history_ends_with_now(store):
    client = store.connect()
    client.put(table())
    sample = ask(store.name, m.History())[-1]
    stats = client.stats()
    assert sample.bytes_stored == stats.bytes_stored == table().nbytes
    assert (sample.bytes_shared, sample.bytes_copied) == (stats.bytes_shared, stats.bytes_copied)
    assert sample.resident >= sample.bytes_stored
    eventually(lambda: len(ask(store.name, m.History())) > 1, "a sample was taken", seconds=20)
    times = [each.when for each in ask(store.name, m.History())]
    assert times == sorted(times)
