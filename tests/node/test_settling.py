"""What a producer published before it died is kept when its lease ends, unless others had it."""

import subprocess
import sys

from tests.node.conftest import eventually
from zerrow_store.node.client import Client

PRODUCER = """
import sys, time, zerrow_store
from tests.node.conftest import table
from zerrow_store.native import _native
client = zerrow_store.connect(sys.argv[1])
for object_id in (b"unread", b"read", b"settled", b"own"):
    client.publish(object_id, _native.encode(table()))
    client.settling(object_id, lambda object_id=object_id: print(object_id.decode(), flush=True))
client.settled(b"settled")
client.hold(b"own")
client.stats()  # the store has heard it
print("ready", flush=True)
time.sleep(60)
"""


def test_what_somebody_has_read_is_settled(client, name):
    command = [sys.executable, "-c", PRODUCER, name]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        hold = client.hold(b"read")
        assert process.stdout.readline() == "read\n"
        del hold
        process.kill()
    eventually(lambda: client.stats().clients == 1, "the store has seen the producer end")
    kept = client.end_leases([b"unread", b"read", b"settled", b"own", b"unknown"])
    assert sorted(kept) == [b"own", b"unread"]
    assert sorted(info.object_id for info in client.list()) == [b"own", b"unread"]
    client.delete([b"unread", b"own"])
    assert client.stats().bytes_stored == 0


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
