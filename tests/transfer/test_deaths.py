"""kill -9 at both ends, links that go down: right bytes or an error, and nothing left behind."""

import threading

import psutil
import pytest

from tests.helpers.data import MIB, table_of
from tests.helpers.machines import Fetching, receiver_of
from tests.helpers.processes import kill
from tests.helpers.python import Worker
from tests.helpers.waiting import wait_until
from zerrow_store.errors import ObjectLostError
from zerrow_store.memory.buffers import allocate
from zerrow_store.transfer import channel

SIZES = [24 * MIB, 70 * MIB]
"""Over one connection, over several; more than what the kernel takes of an agent at once."""


def stuck(there, here, link, *, size, limit):
    """Begin to fetch an object over a link that takes so much and no more; returns when it has."""
    way = link(limit=limit)
    fetching = Fetching(here, way.location, there.publish(table_of(size)))
    wait_until(way.is_stuck)
    return way, fetching


def test_a_sender_that_was_killed_before(there, here):
    wanted, location = there.publish(table_of(MIB)), there.serve()
    kill(there.agent())
    with pytest.raises(ObjectLostError):
        here.fetch(location, wanted)
    wait_until(here.is_empty)
    assert there.serve() != location
    assert here.fetch(there.serve(), wanted).equals(table_of(MIB))


@pytest.mark.parametrize("size", SIZES)
def test_a_sender_that_is_killed_amid_a_transfer(there, here, link, size):
    way, fetching = stuck(there, here, link, size=size, limit=5 * MIB)
    kill(there.agent())
    way.set_limit(None)
    assert isinstance(fetching.result(), ObjectLostError)
    wait_until(here.is_empty)
    assert here.fetch(there.serve(), fetching.wanted).equals(table_of(size))
    wait_until(lambda: there.connected().list()[0].holds == 0)


def test_a_sender_that_is_killed_afterwards(there, here):
    wanted = there.publish(table_of(MIB))
    arrived = here.fetch(there.serve(), wanted)
    kill(there.agent())
    assert arrived.equals(table_of(MIB))


def test_a_store_that_ends_amid_a_transfer(there, here, link):
    way, fetching = stuck(there, here, link, size=24 * MIB, limit=2 * MIB)
    there.supervisor.stop()
    wait_until(lambda: not there.agents())
    way.set_limit(None)
    assert isinstance(fetching.result(), ObjectLostError)
    wait_until(here.is_empty)


@pytest.mark.parametrize("size", SIZES)
def test_a_receiver_that_is_killed_amid_a_transfer(there, here, link, size):
    """Another one begins anew; of the half that had come nothing is left."""
    way, fetching = stuck(there, here, link, size=size, limit=5 * MIB)
    kill(here.agent())
    way.set_limit(None)
    arrived = fetching.result()
    assert arrived.equals(table_of(size))
    wait_until(lambda: here.connected().stats().objects == 1)
    del arrived, fetching
    wait_until(here.is_empty)
    wait_until(lambda: here.memory() < MIB)
    wait_until(lambda: there.connected().list()[0].holds == 0)


def test_what_has_landed_outlives_the_agent(there, here):
    wanted = there.publish(table_of(MIB))
    arrived = here.fetch(there.serve(), wanted)
    kill(here.agent())
    assert arrived.equals(table_of(MIB))
    del arrived
    wait_until(here.is_empty)


def test_who_asked_is_killed_amid_a_transfer(there, here, link):
    way = link(limit=2 * MIB)
    wanted = there.publish(table_of(8 * MIB))
    worker = Worker()
    worker.start(f"""
        import zerrow_store
        from tests.helpers.machines import SECURITY
        from zerrow_store.transfer import local
        client = zerrow_store.connect({here.name!r})
        location, allocations = {way.location!r}, {wanted.allocations!r}
        local.fetch(client, SECURITY, location, {wanted.object_id!r}, allocations)
    """)
    wait_until(way.is_stuck)
    worker.kill()
    way.set_limit(None)
    wait_until(lambda: way.forwarded > 8 * MIB)
    wait_until(here.is_empty)


@pytest.mark.parametrize("at", ["there", "here"])
def test_a_server_that_is_killed_amid_a_transfer(there, here, link, at):
    """The store is started again, and knows what it knew."""
    way, fetching = stuck(there, here, link, size=8 * MIB, limit=2 * MIB)
    machine = there if at == "there" else here
    killed = machine.server_pid()
    kill(killed)
    wait_until(lambda: machine.remains() not in ([], [killed]))
    way.set_limit(None)
    assert fetching.result().equals(table_of(8 * MIB))


def test_agents_end_with_their_store(there, here):
    wanted = there.publish(table_of(MIB))
    assert here.fetch(there.serve(), wanted).num_rows
    there.supervisor.stop()
    wait_until(lambda: not there.agents())
    assert here.agents()


def test_an_agent_listens_only_when_it_was_told_to(there, here):
    wanted = there.publish(table_of(MIB))
    with pytest.raises(ObjectLostError):
        here.fetch("127.0.0.1:1", wanted)
    assert listening(here.agent()) == []
    location = here.serve()
    assert location.startswith("127.0.0.1:")
    assert listening(here.agent()) == [location]
    assert here.serve() == location


def test_many_who_ask_first_start_one_agent(here):
    threads = [threading.Thread(target=here.serve) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(here.agents()) == 1


def test_a_link_that_is_down_for_a_while(there, here, link):
    way, fetching = stuck(there, here, link, size=8 * MIB, limit=2 * MIB)
    threading.Event().wait(1.0)
    assert fetching.is_running()
    way.set_limit(None)
    assert fetching.result().equals(table_of(8 * MIB))


@pytest.mark.parametrize("limit", [0, 10, 200, 2 * MIB])
def test_a_link_that_is_down_for_good(there, here, link, monkeypatch, limit):
    """At any point: while the ends greet each other, amid an answer, amid the bytes."""
    monkeypatch.setattr(channel, "SILENCE_SECONDS", 1)
    way = link(limit=limit)
    wanted = there.publish(table_of(8 * MIB))
    receiver = receiver_of(here)
    with pytest.raises(ObjectLostError, match="timed out"):
        receiver.fetch(way.location, wanted.object_id, wanted.allocations)
    wait_until(here.is_empty)


@pytest.mark.parametrize("limit", [0, 10, 200, 2 * MIB])
def test_a_link_that_is_cut(there, here, link, limit):
    way = link(limit=limit)
    wanted = there.publish(table_of(8 * MIB))
    fetching = Fetching(here, way.location, wanted)
    wait_until(lambda: way.connections and way.is_stuck())
    way.cut()
    assert isinstance(fetching.result(), ObjectLostError)
    wait_until(here.is_empty)
    wait_until(lambda: there.connected().list()[0].holds == 0)


def test_what_is_on_its_way_is_not_recycled(there, here, link):
    """The network has all of it, and refers to the segment: it is deleted and made anew there."""
    expected = table_of(2 * MIB)
    way, fetching = stuck(there, here, link, size=2 * MIB, limit=64 << 10)
    there.connected().delete(fetching.wanted.object_id)
    there.connected().stats()  # what the store tells this producer comes before that
    others = [allocate(2 * MIB) for _ in range(4)]
    for other in others:
        memoryview(other).cast("B")[:] = bytes(2 * MIB)
    way.set_limit(None)
    assert fetching.result().equals(expected)
    wait_until(lambda: there.connected().stats().bytes_stored == 0)


def test_one_link_that_is_down_stops_no_other(there, machine, here, link):
    wanted = [there.publish(table_of(2 * MIB, n)) for n in range(8)]
    way = link(limit=0)
    stuck = [Fetching(here, way.location, each) for each in wanted]
    wait_until(lambda: way.connections > 0)
    other = machine()
    elsewhere = other.publish(table_of(MIB))
    assert here.fetch(other.serve(), elsewhere).equals(table_of(MIB))
    way.set_limit(None)
    assert all(each.result().num_rows for each in stuck)


def listening(pid: int) -> list[str]:
    """The addresses on which a process listens for TCP connections."""

    connections = psutil.Process(pid).net_connections("tcp")
    return [f"{c.laddr.ip}:{c.laddr.port}" for c in connections if c.status == psutil.CONN_LISTEN]
