"""What a producer that died has published last is kept when its lease ends."""

import subprocess
import sys
import time

from tests.node.conftest import eventually
from zerrow_store.node import settling

PRODUCER = """
import sys, time, zerrow_store
from tests.node.conftest import table
from zerrow_store.native import _native
client = zerrow_store.connect(sys.argv[1])
for object_id, pause in ((b"early", float(sys.argv[2])), (b"late", 0)):
    client.publish(object_id, _native.encode(table()))
    client.settling(object_id)
    client.stats()  # the store has heard it
    time.sleep(pause)
print("ready", flush=True)
time.sleep(60)
"""


def killed(name: str, pause: float) -> None:
    command = [sys.executable, "-c", PRODUCER, name, str(pause)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.kill()


def test_the_last_moments(client, name):
    killed(name, settling.SETTLING_SECONDS + 0.2)
    eventually(lambda: client.stats().clients == 1, "the store has seen the producer end")
    assert client.end_leases([b"early", b"late", b"unknown"]) == (b"late",)
    assert [info.object_id for info in client.list()] == [b"late"]
    client.delete(b"late")
    assert client.stats().bytes_stored == 0


def test_a_lease_that_ends_long_after_has_ended_with_its_use(monkeypatch):
    recent = settling.Settling()
    recent.began("producer", b"object")
    recent.ended("producer")
    later = time.monotonic() + settling._HEARD_SECONDS + 1
    monkeypatch.setattr(time, "monotonic", lambda: later)
    assert not recent.may_be_cut(b"object")
