"""Connections are used again, and nothing is lost or kept by that."""

import os
import socket
import threading

import pytest

from tests.helpers.data import MIB, table_of
from tests.helpers.machines import SECURITY, open_client, receiver_of
from tests.helpers.processes import kill
from tests.helpers.waiting import wait_until
from zerrow_store.errors import ObjectLostError
from zerrow_store.transfer import agent, connections, local, messages, sender
from zerrow_store.transfer.channel import Channel, connect
from zerrow_store.transfer.connections import Connections
from zerrow_store.transfer.followers import Followers
from zerrow_store.transfer.segment_files import FileClient


def test_objects_come_over_the_same_connection(there, here, link):
    way = link()
    for n in range(20):
        wanted = there.publish(table_of(MIB, n))
        assert here.fetch(way.location, wanted).equals(table_of(MIB, n))
    assert way.connections == 1


def test_what_has_arrived_is_let_go_of(there, here, link):
    """The connection stays, the object does not."""
    way = link()
    first, second = there.publish(table_of(MIB)), there.publish(table_of(MIB, 1))
    here.fetch(way.location, first)
    there.connected().delete(first.object_id)
    wait_until(lambda: there.connected().stats().objects == 1)
    assert here.fetch(way.location, second).equals(table_of(MIB, 1))
    assert way.connections == 1


def test_a_refused_object_costs_no_other(there, here, link):
    way = link()
    gone, wanted = there.publish(table_of(MIB)), there.publish(table_of(MIB, 1))
    there.connected().delete(gone.object_id)
    for _ in range(3):
        with pytest.raises(ObjectLostError):
            here.fetch(way.location, gone)
    assert here.fetch(way.location, wanted).equals(table_of(MIB, 1))


@pytest.mark.parametrize("size", [MIB, 40 * MIB])
@pytest.mark.parametrize("seen", [True, False], ids=["seen", "unseen"])
def test_one_that_was_closed_is_replaced(there, here, link, monkeypatch, seen, size):
    """unseen: it is closed just when it is used."""
    way = link()
    receiver = receiver_of(here)

    def fetch(start):
        wanted = there.publish(table_of(size, start))
        return receiver.fetch(way.location, wanted.object_id, wanted.allocations)

    assert fetch(0)
    before = way.connections
    way.cut()
    if not seen:
        monkeypatch.setattr(Channel, "is_readable", lambda *_: False)
    assert fetch(1)
    assert way.connections > before


def test_a_sender_that_was_killed_is_replaced(there, here):
    wanted = there.publish(table_of(MIB))
    assert here.fetch(there.serve(), wanted).num_rows
    kill(there.agent())
    assert here.fetch(there.serve(), wanted).equals(table_of(MIB))


def test_one_with_something_left_is_not_used_again():
    """What is to come would be taken for an answer."""
    known = Connections(SECURITY)
    near, far = socket.socketpair()
    with far:
        known.give_back("there", Channel(near))
        far.sendall(b"!")
        assert known.idle("there") is None
        assert near.fileno() == -1


def test_the_one_used_last_is_used_next_and_few_are_kept(monkeypatch):
    monkeypatch.setattr(connections, "_MOST_IDLE", 2)
    known = Connections(SECURITY)
    pairs = [socket.socketpair() for _ in range(3)]
    channels = [Channel(near) for near, _ in pairs]
    for where, channel in zip(["there", "elsewhere", "there"], channels, strict=True):
        known.give_back(where, channel)
    assert pairs[0][0].fileno() == -1
    assert known.idle("elsewhere") is channels[1]
    assert known.idle("there") is channels[2]
    assert known.idle("there") is None
    for near, far in pairs:
        near.close()
        far.close()


def test_a_sender_ends_one_that_is_idle(there, monkeypatch):
    monkeypatch.setattr(sender, "_IDLE_SECONDS", 0.05)
    client = open_client(there, FileClient)
    location = sender.Sender(client, SECURITY, "127.0.0.1", Followers(client)).location
    wanted = there.publish(table_of(MIB))
    with connect(location, SECURITY) as channel:
        for _ in range(2):
            pieces = [(s, o, size, 0, size) for s, o, size in wanted.allocations]
            channel.send(messages.Read(wanted.object_id, pieces))
            assert isinstance(channel.receive(messages.ANSWER), messages.Sending)
            channel.receive_into([memoryview(bytearray(MIB))])
            assert isinstance(channel.receive(messages.ANSWER), messages.Sent)
            # It is not idle before it has said so, however long that takes.
            assert not channel.is_readable(0.2)
        channel.send(messages.Taken())
        assert channel.is_readable(20)
        with pytest.raises(ConnectionResetError):
            channel.receive(messages.ANSWER)


def test_the_agent_is_asked_over_one_connection(there, here, monkeypatch):
    connect_to, opened = local._connect, []
    location, wanted = there.serve(), [there.publish(table_of(MIB, n)) for n in range(3)]
    monkeypatch.setattr(
        local, "_connect", lambda *arguments: opened.append(arguments) or connect_to(*arguments)
    )
    for n, each in enumerate(wanted):
        assert here.fetch(location, each).equals(table_of(MIB, n))
    assert [store for store, _ in opened] == [here.name]
    wait_until(here.is_empty)


def test_an_agent_that_was_killed_is_replaced(there, here):
    location = there.serve()
    for n in range(2):
        assert here.fetch(location, there.publish(table_of(MIB, n))).num_rows
        kill(here.agent())


def test_a_forked_child_has_connections_of_its_own(there, here):
    assert here.fetch(there.serve(), there.publish(table_of(MIB))).num_rows
    child = os.fork()
    if child == 0:
        os._exit(local._agents.idle(here.name) is not None)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    kept = local._agents.idle(here.name)
    assert kept is not None
    local._agents.give_back(here.name, kept)


def test_the_agent_ends_one_that_is_idle(here, monkeypatch):
    monkeypatch.setattr(agent, "_IDLE_SECONDS", 0.05)
    near, far = socket.socketpair()
    served = agent.Agent(open_client(here, FileClient), SECURITY, near)
    threading.Thread(target=served._serve, args=[far], daemon=True).start()
    with Channel(near) as channel:
        channel.send(messages.Serve("127.0.0.1"))
        assert isinstance(channel.receive(messages.REPLY), messages.Serving)
        assert not channel.is_readable(0.2)  # it has not said that it wants nothing more
        channel.send(messages.Taken())
        assert channel.is_readable(60)
