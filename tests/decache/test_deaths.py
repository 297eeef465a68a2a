"""Decoders and the store are killed at any moment of a read: what is read is right, and what was
taken comes back.
"""

import time

import pytest

from tests.helpers.processes import kill
from tests.helpers.readers import Reader, digest, write
from tests.helpers.waiting import wait_until

ROUNDS = 8


@pytest.fixture
def path(tmp_path):
    return tmp_path / "f.parquet"


@pytest.fixture
def read_seconds(store, path, tmp_path):
    """How long a first read takes: kills are spread over it."""
    write(path)
    reader = Reader(store, tmp_path)
    start = time.monotonic()
    reader.read(path)
    seconds = time.monotonic() - start
    reader.drop()
    store.connected().cache_drop()
    return seconds


def test_a_decoder_is_killed_at_any_time(store, path, tmp_path, read_seconds):
    client = store.connected()
    for i in range(ROUNDS):
        table = write(path, seed=i)
        victim, other = Reader(store, tmp_path), Reader(store, tmp_path)
        victim.start(path)
        future = other.start(path)
        time.sleep(read_seconds * i / ROUNDS)
        kill(victim.pid)
        assert future.result() == digest(table)
        assert sum(entry.parts for entry in client.cache_list()) == 16
        kill(other.pid)
    client.cache_drop()
    wait_until(lambda: client.stats().bytes_stored == 0)


def test_the_store_is_killed_at_any_time(store, path, tmp_path, read_seconds):
    client = store.connected()
    readers = [Reader(store, tmp_path) for _ in range(2)]
    for i in range(ROUNDS):
        table = write(path, seed=i)
        futures = [reader.start(path) for reader in readers]
        time.sleep(read_seconds * i / ROUNDS)
        kill(store.server_pid())
        assert [future.result() for future in futures] == [digest(table)] * 2
        # Whether or not the crash made it be decoded twice, it is there once.
        assert sum(entry.parts for entry in client.cache_list()) == 16
    for reader in readers:
        reader.drop()
    client.cache_drop()
    wait_until(lambda: client.stats().bytes_stored == 0)
