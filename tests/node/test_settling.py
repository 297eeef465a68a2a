"""The producer of an object is told of its first reader, if it waits for that."""

import pytest

from tests.node.conftest import eventually, table
from zerrow_store.native import _native
from zerrow_store.node.client import Client


@pytest.fixture
def producer(client, name):
    connected = Client(name)
    yield connected
    connected.close()


def publish(producer: Client, object_id: bytes) -> list[bytes]:
    """Publish an object, and wait for its reader; returns the list that then has the object."""
    told: list[bytes] = []
    producer.publish(object_id, _native.encode(table()))
    producer.settling(object_id, lambda: told.append(object_id))
    producer.stats()  # the store has heard it
    return told


def test_the_first_reader_is_told_of(client, producer):
    told = publish(producer, b"object")
    own = producer.hold(b"object")
    for _ in range(2):
        client.hold(b"object")
    eventually(lambda: told == [b"object"], "the producer hears of the reader")
    del own


def test_who_waits_no_more_is_told_nothing(client, producer):
    told, later = publish(producer, b"object"), publish(producer, b"later")
    producer.settled(b"object")
    producer.stats()
    client.hold(b"object")
    client.hold(b"later")
    eventually(lambda: later == [b"later"], "the producer hears of another one")
    assert told == []


def test_a_producer_that_has_reconnected_is_told(client, producer):
    told = publish(producer, b"object")
    producer._socket.shutdown(2)
    for _ in range(2):
        producer.stats()  # the second one goes through the new connection
    client.hold(b"object")
    eventually(lambda: told == [b"object"], "the producer hears of the reader")


def test_what_is_deleted_meanwhile_does_no_harm(client, producer):
    publish(producer, b"object")
    client.delete(b"object")
    assert client.stats().objects == 0
    assert publish(producer, b"object") == []
