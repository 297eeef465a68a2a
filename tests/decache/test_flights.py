"""Single flight: readers, decoders and stores that die, fail, wait, or are many."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor, wait

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.helpers.processes import kill
from tests.helpers.readers import Reader, digest, write
from tests.helpers.waiting import wait_until
from zerrow_store.decache import read_parquet


@pytest.fixture
def path(tmp_path):
    return tmp_path / "f.parquet"


def settle():
    """Time for a request to reach the server. What follows holds without it, but tests less."""
    time.sleep(0.2)


def test_readers_at_once_decode_once(store, path, tmp_path):
    table = write(path)
    readers = [Reader(store, tmp_path, gate=True) for _ in range(5)]
    futures = [reader.start(path) for reader in readers]
    settle()
    for reader in readers:
        reader.open_gate()
    assert {future.result() for future in futures} == {digest(table)}
    assert sum(len(reader.decoded()) for reader in readers) == 16


def test_columns_are_decoded_side_by_side(store, path, tmp_path):
    table = write(path)
    first, second = Reader(store, tmp_path, gate=True), Reader(store, tmp_path, gate=True)
    one = first.start(path, columns=["c0", "c1"])
    first.wait_until_decoding()
    two = second.start(path, columns=["c1", "c2"])
    second.wait_until_decoding()  # both are at it at the same time
    second.open_gate()
    settle()
    assert not two.done()
    first.open_gate()
    assert one.result() == digest(table.select(["c0", "c1"]))
    assert two.result() == digest(table.select(["c1", "c2"]))
    assert sorted({line.split()[0] for line in first.decoded()}) == ["c0", "c1"]
    assert {line.split()[0] for line in second.decoded()} == {"c2"}


def test_readers_in_a_circle_do_not_wait_for_ever(store, path, tmp_path):
    table = write(path)
    columns = [["c0", "c1"], ["c1", "c2"], ["c2", "c0"]]
    readers = [Reader(store, tmp_path, gate=True) for _ in columns]
    futures = []
    for reader, wanted in zip(readers, columns, strict=True):
        futures.append(reader.start(path, columns=wanted))
        settle()
    for reader in reversed(readers):
        reader.open_gate()
    for future, wanted in zip(futures, columns, strict=True):
        assert future.result() == digest(table.select(wanted))
    assert sum(len(reader.decoded()) for reader in readers) == 12


def test_a_decoder_that_dies_is_replaced(store, path, tmp_path):
    table = write(path)
    first, second, third = (Reader(store, tmp_path, gate=True) for _ in range(3))
    first.start(path)
    first.wait_until_decoding()
    futures = [second.start(path), third.start(path)]
    settle()
    kill(first.pid)
    wait_until(lambda: second._begun.exists() or third._begun.exists())
    second.open_gate()
    third.open_gate()
    assert {future.result() for future in futures} == {digest(table)}
    assert len(second.decoded()) + len(third.decoded()) == 16


def test_a_decoder_that_is_interrupted_lets_go(store, path, tmp_path):
    table = write(path)
    first, second = Reader(store, tmp_path, gate=True), Reader(store, tmp_path)
    one = first.start(path)
    first.wait_until_decoding()
    two = second.start(path)
    settle()
    os.kill(first.pid, signal.SIGINT)
    with pytest.raises(AssertionError, match="KeyboardInterrupt"):
        one.result()
    assert two.result() == digest(table)


def test_a_reader_that_waits_can_be_interrupted(store, path, tmp_path):
    table = write(path)
    first, second = Reader(store, tmp_path, gate=True), Reader(store, tmp_path)
    one = first.start(path)
    first.wait_until_decoding()
    two = second.start(path)
    settle()
    os.kill(second.pid, signal.SIGINT)
    with pytest.raises(AssertionError, match="KeyboardInterrupt"):
        two.result()
    first.open_gate()
    assert one.result() == digest(table)
    assert second.read(path) == digest(table)
    assert second.decoded() == []
    # What came for the interrupted one is not held for ever.
    first.drop()
    second.drop()
    client = store.connected()
    wait_until(lambda: not any(entry.readers for entry in client.cache_list()))


def test_a_failed_decode_is_told_to_who_waits(store, path, tmp_path):
    write(path)
    damaged = path.read_bytes()
    place = pq.read_metadata(path).row_group(2).column(1).data_page_offset
    path.write_bytes(damaged[:place] + b"\xff" * 64 + damaged[place + 64 :])
    with pytest.raises((pa.ArrowException, OSError)) as plain:
        pq.read_table(path)
    first, second = Reader(store, tmp_path, gate=True), Reader(store, tmp_path, gate=True)
    one, two = first.start(path), second.start(path)
    other = Reader(store, tmp_path)
    wait_until(lambda: first._begun.exists() or second._begun.exists())
    settle()
    waiting = second if first._begun.exists() else first
    (first if waiting is second else second).open_gate()
    wait([one, two], return_when="FIRST_COMPLETED")
    waiting.open_gate()
    for future in (one, two):
        with pytest.raises(AssertionError, match=str(path)) as told:
            future.result()
        assert type(plain.value).__name__ in str(told.value)
    assert waiting.decoded() == []
    # The undamaged columns can be read all the same.
    assert other.read(path, columns=["c0", "c2", "c3"])
    client = store.connected()
    assert {entry.column for entry in client.cache_list()} == {"c0", "c2", "c3"}


def test_the_store_is_killed_while_decoding(store, path, tmp_path):
    table = write(path)
    first, second = Reader(store, tmp_path, gate=True), Reader(store, tmp_path, gate=True)
    one = first.start(path)
    first.wait_until_decoding()
    two = second.start(path)
    settle()
    kill(store.server_pid())
    first.open_gate()
    second.open_gate()
    assert one.result() == digest(table)
    assert two.result() == digest(table)
    client = store.connected()
    assert sum(entry.parts for entry in client.cache_list()) == 16


def test_entries_survive_the_store(store, path, tmp_path):
    table = write(path)
    reader = Reader(store, tmp_path)
    reader.read(path)
    client = store.connected()
    before = client.cache_list()
    for _ in range(3):
        kill(store.server_pid())
        (*after,) = client.cache_list()
        assert [(e.object_id, e.nbytes, e.hits) for e in after] == [
            (e.object_id, e.nbytes, e.hits) for e in before
        ]
    other = Reader(store, tmp_path)
    assert other.read(path) == digest(table)
    assert other.decoded() == []
    # Its reader, whose view was taken before the restarts, still has it.
    assert reader.worker.do("digest(table)") == digest(table)


def test_a_drop_after_a_restart_spares_the_readers(store, path, tmp_path):
    table = write(path)
    reader = Reader(store, tmp_path)
    reader.read(path)
    client = store.connected()
    os.kill(reader.pid, signal.SIGSTOP)  # it comes back late
    kill(store.server_pid())
    assert client.cache_drop() == 4
    os.kill(reader.pid, signal.SIGCONT)
    assert reader.worker.do("digest(table)") == digest(table)
    assert client.cache_list() == []
    reader.drop()
    wait_until(lambda: client.stats().bytes_stored == 0)


def test_all_readers_are_killed(store, path, tmp_path):
    table = write(path)
    readers = [Reader(store, tmp_path) for _ in range(3)]
    for reader in readers:
        reader.read(path)
    for reader in readers:
        kill(reader.pid)
    client = store.connected()
    wait_until(lambda: not any(entry.readers for entry in client.cache_list()))
    assert client.cache_drop() == 4
    wait_until(lambda: client.stats().segments <= 1 and client.stats().bytes_stored == 0)
    assert read_parquet(path, client=client).equals(table)


MANY = """
import sys, zerrow_store
from zerrow_store.decache import read_parquet
from zerrow_store.decache.parquet_file import Decoder
original, decoded = Decoder.decode, 0
def decode(self, wanted):
    global decoded
    decoded += sum(map(len, wanted.values()))
    return original(self, wanted)
Decoder.decode = decode
client = zerrow_store.connect(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
columns = [f"c{i}" for i in range(16) if (int(sys.argv[3]) + i) % 3]
table = read_parquet(sys.argv[2], columns=columns, client=client)
import pyarrow.parquet as pq
assert table.equals(pq.read_table(sys.argv[2], columns=columns))
print(decoded, flush=True)
"""


def test_fifty_processes_at_once(store, path):
    write(path, columns=16, rows=40_000)
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", MANY, store.name, str(path), str(i)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for i in range(50)
    ]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    assert sum(int(process.stdout.readline()) for process in processes) == 16 * 4
    for process in processes:
        process.stdin.close()
        process.stdout.close()
        assert process.wait() == 0


def test_readers_that_may_use_one_processor_share_the_work(store, path, tmp_path):
    table = write(path, columns=16)
    readers = [Reader(store, tmp_path, gate=True) for _ in range(2)]
    for reader in readers:
        reader.worker.do("pa.set_cpu_count(1)")
    futures = [reader.start(path) for reader in readers]
    for reader in readers:
        reader.wait_until_decoding()
    for reader in readers:
        reader.open_gate()
    assert {future.result() for future in futures} == {digest(table)}
    decoded = [reader.decoded() for reader in readers]
    assert all(decoded)
    chunks = sorted(f"c{i} {g}" for i in range(16) for g in range(4))
    assert sorted(decoded[0] + decoded[1]) == chunks


def test_waiting_shows_in_the_log(store, path, tmp_path, caplog):
    table = write(path)
    first = Reader(store, tmp_path, gate=True)
    future = first.start(path)
    first.wait_until_decoding()
    client = store.connected()
    with caplog.at_level("DEBUG", "zerrow_store"), ThreadPoolExecutor(1) as pool:
        second = pool.submit(read_parquet, path, client=client)
        wait_until(lambda: f"{path}: waiting for 4 columns" in caplog.text)
        first.open_gate()
        assert second.result().equals(table)
    assert future.result() == digest(table)
