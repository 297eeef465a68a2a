"""What a producer published before it died is kept when its lease ends, unless others had it."""

import subprocess
import sys

import pytest

from tests.node.conftest import eventually
from zerrow_store.node.client import Client
from zerrow_store.node.connection import Connection
from zerrow_store.node.settling import Settling

PRODUCER = """
import sys, zerrow_store
from tests.node.conftest import table
from zerrow_store.native import _native
client = zerrow_store.connect(sys.argv[1])
for object_id in (b"plain", b"plain, read", b"kept", b"kept, read", b"settled", b"own"):
    client.publish(object_id, _native.encode(table()))
    if not object_id.startswith(b"plain"):
        read = lambda object_id=object_id: print(object_id.decode(), flush=True)
        client.settling(object_id, read)
client.settled(b"settled")
client.hold(b"own")
client.stats()  # the store has heard it
print("ready", flush=True)
sys.stdin.read()
"""

ALL = [b"plain", b"plain, read", b"kept", b"kept, read", b"settled", b"own"]


@pytest.fixture
def producer(client, name):
    """A process that has published `ALL`, of which two were read by this one."""
    command = [sys.executable, "-c", PRODUCER, name]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        client.hold(b"plain, read")
        client.hold(b"kept, read")
        assert process.stdout.readline() == "kept, read\n"
        yield process
        process.kill()


def gone(client, producer):
    producer.wait()
    eventually(lambda: client.stats().clients == 1, "the store has seen the producer end")


def test_of_a_killed_producer_what_nobody_has_read_is_kept(client, producer):
    producer.kill()
    gone(client, producer)
    kept = sorted(client.end_leases([*ALL, b"unknown"]))
    assert kept == [b"kept", b"own", b"plain", b"settled"]
    assert sorted(info.object_id for info in client.list()) == kept
    assert sorted(client.end_leases(kept)) == kept  # however late
    client.delete(kept)
    assert client.stats().bytes_stored == 0


def test_of_a_producer_that_ends_as_it_should_nothing_is(client, producer):
    producer.stdin.close()
    gone(client, producer)
    assert client.end_leases(ALL) == ()
    assert client.list() == []


def test_of_a_producer_that_lives_nothing_is(client, producer):
    assert client.end_leases(ALL) == ()
    eventually(lambda: client.stats().bytes_stored == 0, "all is freed")


def test_a_producer_that_comes_back_still_has_its_leases(client, name):
    from tests.node.conftest import table
    from zerrow_store.native import _native

    producer = Client(name)
    producer.publish(b"object", _native.encode(table()))
    told: list[bytes] = []
    producer.settling(b"object", lambda: told.append(b"object"))
    producer.stats()
    producer._socket.shutdown(2)  # it reconnects
    for _ in range(2):
        producer.stats()  # the second one goes through the new connection
    client.hold(b"object")
    eventually(lambda: told == [b"object"], "the producer hears of the reader")
    assert client.end_leases([b"object"]) == ()
    producer.close()


def test_two_connections_may_announce_the_same_object():
    settling, one, other = (
        Settling(),
        Connection.__new__(Connection),
        Connection.__new__(Connection),
    )
    settling.began(one, b"object")
    settling.began(other, b"object")
    settling.ended(one)
    assert not settling.may_be_cut(b"object")
    settling.ended(other)
    assert settling.may_be_cut(b"object")
