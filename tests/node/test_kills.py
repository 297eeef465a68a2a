"""kill -9, at everything: nothing readable is lost, nothing is left behind."""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import zerrow_store
from tests.helpers.arena import pinned
from tests.helpers.data import table
from tests.helpers.processes import alive, memory_files
from tests.helpers.python import zerrow
from tests.helpers.stores import both_supervisors, supervisors_of
from tests.helpers.waiting import eventually

PRODUCER = """
import sys, time, zerrow_store, pyarrow as pa
from tests.helpers.data import table
client = zerrow_store.connect(sys.argv[1])
client.put(table(), object_id=b"made")
unpublished = table(5_000_000)
print("ready", flush=True)
time.sleep(60)
"""

CONSUMER = """
import sys, time, zerrow_store
client = zerrow_store.connect(sys.argv[1])
view = client.get(b"held")
print("ready", flush=True)
time.sleep(60)
"""


def spawn(code: str, name: str) -> "subprocess.Popen[str]":
    process = subprocess.Popen(
        [sys.executable, "-c", code, name], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def kill(process: "subprocess.Popen[str]") -> None:
    process.kill()
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


def memory_file_bytes(pid: int) -> int:
    """Memory of all memory files that a process has open, from their allocated blocks."""
    total = 0
    for path in memory_files(pid):
        with contextlib.suppress(FileNotFoundError):  # it may be closed meanwhile
            total += os.stat(path).st_blocks * 512
    return total


def test_a_dead_producers_objects_stay_and_the_rest_is_given_back(client, name):
    producer = spawn(PRODUCER, name)
    server = client.stats().pid
    before = memory_file_bytes(server)
    kill(producer)
    eventually(
        lambda: memory_file_bytes(server) < before - 70_000_000,
        "unpublished memory is given back",
        seconds=20,
    )
    assert client.get(b"made").equals(table())
    segments = client.stats().segments
    client.delete(b"made")
    eventually(lambda: client.stats().segments == segments - 1, "the segment is gone", seconds=20)


def test_a_dead_consumers_holds_end(client, name):
    client.put(table(), object_id=b"held")
    consumer = spawn(CONSUMER, name)
    client.delete(b"held")
    assert client.stats().bytes_stored == table().nbytes
    kill(consumer)
    eventually(lambda: client.stats().bytes_stored == 0, "its holds have ended", seconds=20)


def test_the_server_dies_and_nothing_is_lost(client, name):
    before = pinned()
    object_id = client.put(table())
    view = client.get(object_id)
    hidden = client.put(table(start=3))
    hidden_view = client.get(hidden)
    client.delete(hidden)
    pid = client.stats().pid
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: client.stats().pid != pid, "the store is back", seconds=20)
    assert view.equals(table())
    assert hidden_view.equals(table(start=3))
    assert client.get(object_id).equals(table())
    other = zerrow_store.connect(name)
    assert other.get(object_id).equals(table())
    other.close()
    assert client.get(client.put(table(start=7))).equals(table(start=7))
    del view, hidden_view
    client.delete([info.object_id for info in client.list()])
    eventually(lambda: client.stats().bytes_stored == 0, "all is freed", seconds=20)
    eventually(lambda: pinned() == before, "all is unpinned", seconds=20)


def test_again_and_again(client):
    kept = {i: client.put(table(1_000, i)) for i in range(20)}
    for round_ in range(5):
        pid = client.stats().pid
        os.kill(pid, signal.SIGKILL)
        kept[100 + round_] = client.put(table(1_000, 100 + round_))
        for start, object_id in kept.items():
            assert client.get(object_id).equals(table(1_000, start))


def supervisor_of(name: str) -> int | None:
    return next(iter(supervisors_of(name)), None)


def test_a_store_without_its_supervisor_gets_a_new_one(name):
    assert zerrow("start", "--name", name, "--memory", "1GiB").returncode == 0
    client = zerrow_store.connect(name)
    object_id = client.put(table())
    server = client.stats().pid
    first = supervisor_of(name)
    assert first is not None
    os.kill(first, signal.SIGKILL)
    assert first not in both_supervisors(name)
    assert client.stats().pid == server
    # The new one has been given everything: now the server may die.
    os.kill(server, signal.SIGKILL)
    assert client.get(object_id).equals(table())
    last = client.stats().pid
    assert zerrow("stop", "--name", name).returncode == 0
    eventually(
        lambda: not alive(last) and supervisor_of(name) is None, "both have ended", seconds=20
    )
    assert name not in Path("/proc/net/unix").read_text()
    with pytest.raises(zerrow_store.StoreUnavailableError):
        zerrow_store.connect(name)
