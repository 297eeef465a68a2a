"""Spilled bytes are checked again by who holds them after nobody in the process did.

What was really read is seen at the function that reads, in this process and in those it forks.
"""

import gc
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from tests.helpers.processes import spilled_files
from tests.helpers.small_store import BUDGET, NBYTES, make
from tests.helpers.stores import Store
from zerrow_store import _disk
from zerrow_store.client.client import Client
from zerrow_store.errors import ObjectLostError


@pytest.fixture
def store(disk: Path) -> Iterator[Store]:
    """A store that holds eight tables."""
    made = Store(f"back-{os.urandom(4).hex()}", budget=BUDGET)
    yield made
    made.stop()


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes that were read to be checked."""
    sizes: list[int] = []
    checksum = _disk.checksum

    def noting(fd: int, offset: int, size: int) -> int:
        sizes.append(size)
        return checksum(fd, offset, size)

    monkeypatch.setattr(_disk, "checksum", noting)
    return sizes


def spill(client: Client, *tables: pa.Table) -> list[bytes]:
    """Put tables, and others until they are on disk."""
    ids = [client.put(table) for table in tables]
    del tables
    gc.collect()
    for n in range(16):
        client.put(make(100 + n))
    assert all(client.hold(object_id).moved for object_id in ids)
    return ids


def flip(store: Store, client: Client, object_id: bytes) -> None:
    """Change a byte of an object, and of whatever else lies where it does in another file."""
    ((_, at),) = client.hold(object_id).moved.values()
    for path in spilled_files(store.server_pid()):
        fd = os.open(path, os.O_RDWR)
        if os.fstat(fd).st_size > at:
            (byte,) = os.pread(fd, 1, at)
            os.pwrite(fd, bytes([byte ^ 1]), at)
        os.close(fd)


def test_what_changed_between_two_holds_is_lost(store: Store) -> None:
    client = store.connected()
    (object_id,) = spill(client, make(0))
    assert client.get(object_id).equals(make(0))
    flip(store, client, object_id)
    for _ in range(2):
        with pytest.raises(ObjectLostError, match="changed on disk"):
            client.get(object_id)
    flip(store, client, object_id)
    assert client.get(object_id).equals(make(0))


def test_what_is_held_is_not_read_again(store: Store, reads: list[int]) -> None:
    client = store.connected()
    (object_id,) = spill(client, make(0))
    first = client.get(object_id)
    assert reads == [NBYTES]
    # Any of the holds will do, through any client, and any piece of the data.
    second = store.connect().get(object_id)
    piece = second["x"].chunk(0).slice(7, 1)
    del first, second
    third = client.get(object_id)
    assert reads == [NBYTES]
    assert third.equals(make(0))
    del piece, third
    client.get(object_id)
    assert reads == [NBYTES] * 2


def test_objects_that_share_bytes_check_them_once(store: Store, reads: list[int]) -> None:
    client = store.connected()
    table = make(0)
    ids = spill(client, *[table.slice(n) for n in range(2)])
    del table
    first = client.get(ids[0])
    second = client.get(ids[1])
    assert reads == [NBYTES]
    del first
    client.get(ids[0])
    assert reads == [NBYTES]
    assert second.equals(make(0).slice(1))
    del second
    client.get(ids[1])
    assert reads == [NBYTES] * 2


def test_a_forked_child_checks_for_itself(store: Store, reads: list[int]) -> None:
    client = store.connected()
    (object_id,) = spill(client, make(0))
    view = client.get(object_id)
    assert reads == [NBYTES]
    child = os.fork()
    if child == 0:
        code = 1
        try:
            second = client.get(object_id)
            third = client.get(object_id)
            same = view.equals(second) and view.equals(third)
            del view
            code = 0 if same and reads == [NBYTES] * 2 else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    # What ends in the child has not ended here.
    client.get(object_id)
    assert reads == [NBYTES]
    assert view.equals(make(0))


def test_who_ends_with_views_says_nothing(store: Store) -> None:
    client = store.connected()
    (object_id,) = spill(client, make(0))
    code = f"""
import zerrow_store
client = zerrow_store.connect({store.name!r})
first, second = client.get({object_id!r}), client.get({object_id!r})
del second
cycle = [first]
cycle.append(cycle)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
