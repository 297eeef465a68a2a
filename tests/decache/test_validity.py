"""Files that change, vanish, are damaged or forbidden; stores that are full.

The file is long because each way in which a file can change is a case.
"""

import gc
import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest

from tests.helpers.parquet import outcome
from tests.helpers.readers import Reader, digest, write
from tests.helpers.stores import Store
from tests.helpers.waiting import wait_until
from zerrow_store.decache import read_parquet
from zerrow_store.decache.files import LocalFile
from zerrow_store.errors import StoreFullError


@pytest.fixture
def path(tmp_path):
    return tmp_path / "f.parquet"


def test_a_rewritten_file_is_read_again(client, path):
    for seed in range(10):
        table = write(path, rows=400, seed=seed)  # the same size, a moment later
        assert read_parquet(path, client=client).equals(table)
    # The entries of what was there before are gone.
    assert len(client.cache_list()) == 4


def test_a_replaced_file_is_read_again(client, path, tmp_path):
    write(path, seed=0)
    status = os.stat(path)
    read_parquet(path, client=client)
    other = tmp_path / "other"
    table = write(other, seed=1)
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    os.replace(other, path)
    assert read_parquet(path, client=client).equals(table)


def test_times_that_are_set_back_hide_nothing(client, path):
    write(path, seed=0)
    status = os.stat(path)
    read_parquet(path, client=client)
    table = pa.table({f"c{i}": np.random.default_rng(i).random(200_000) for i in range(4)})
    with open(path, "r+b") as file:
        pq.write_table(table, file, row_group_size=50_000, use_dictionary=False)
        file.truncate()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert read_parquet(path, client=client).equals(table)


def test_a_file_that_has_just_been_written_is_waited_out(path):
    """Two writes within a tick of the kernel's clock must not look like one."""
    for _ in range(5):
        path.write_bytes(b"a")
        file = LocalFile(str(path))
        before = file.identity
        path.write_bytes(b"b")
        assert file.current_identity() != before
        file.close()


def test_a_file_that_changes_while_it_is_decoded(store, path, tmp_path):
    write(path, seed=0)
    first = Reader(store, tmp_path, gate=True)
    future = first.start(path)
    first.wait_until_decoding()
    table = write(path, seed=1)  # in place
    first.open_gate()
    assert future.result() == digest(table)
    second = Reader(store, tmp_path)
    assert second.read(path) == digest(table)
    assert second.decoded() == []


def test_a_file_that_is_replaced_while_it_is_decoded(store, path, tmp_path):
    old = write(path, seed=0)
    first, second = Reader(store, tmp_path, gate=True), Reader(store, tmp_path)
    future = first.start(path)
    first.wait_until_decoding()
    new = write(tmp_path / "new", seed=1)
    os.replace(tmp_path / "new", path)
    assert second.read(path) == digest(new)
    first.open_gate()
    # Unlinking is a change of the inode, too: whichever it reads is a whole version.
    assert future.result() in (digest(old), digest(new))
    assert second.read(path) == digest(new)


def test_a_file_that_changes_all_the_time(client, path, monkeypatch):
    from zerrow_store.decache.parquet_file import Decoder

    write(path, rows=400)
    original = Decoder.decode

    def decode(self, wanted):
        decoded = original(self, wanted)
        write(path, rows=400, seed=int.from_bytes(os.urandom(2), "little"))
        return decoded

    monkeypatch.setattr(Decoder, "decode", decode)
    with pytest.raises(OSError, match="changes all the time"):
        read_parquet(path, client=client)
    assert client.cache_list() == []


def test_a_deleted_file(client, path):
    expected = write(path)
    table = read_parquet(path, client=client)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=str(path)):
        read_parquet(path, client=client)
    assert table.equals(expected)


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: b"PAR1",
        lambda data: b"not parquet at all",
        lambda data: data[:-1],
        lambda data: data[: len(data) // 2],
        lambda data: data[:-20] + b"\xff" * 12 + data[-8:],
        lambda data: data[:200] + b"\xff" * (len(data) // 2) + data[200 + len(data) // 2 :],
        lambda data: data[-4:] + data[4:-4] + b"PARE",
    ],
    ids=["empty", "magic", "text", "cut", "half", "footer", "pages", "encrypted"],
)
def test_damaged_files(client, path, damage):
    table = write(path)
    healthy = path.with_name("healthy.parquet")
    shutil.copy(path, healthy)
    path.write_bytes(damage(path.read_bytes()))
    expected = outcome(lambda: pq.read_table(path))
    assert isinstance(expected, Exception)
    for _ in range(2):
        got = outcome(lambda: read_parquet(path, client=client))
        assert type(got) is type(expected)
        assert str(path) in str(got)
    assert client.cache_list() == []
    assert read_parquet(healthy, client=client).equals(table)


def test_encrypted_files_are_refused_clearly(client, path):
    import pyarrow.parquet.encryption as pe

    class Kms(pe.KmsClient):
        def wrap_key(self, key, _):
            return key

        def unwrap_key(self, key, _):
            return key

    factory = pe.CryptoFactory(lambda _: Kms())
    config = pe.EncryptionConfiguration(
        footer_key="key", column_keys={"key": ["x"]}, double_wrapping=False
    )
    keys = factory.file_encryption_properties(pe.KmsConnectionConfig(), config)
    table = pa.table({"x": range(10)})
    with pq.ParquetWriter(path, table.schema, encryption_properties=keys) as writer:
        writer.write_table(table)
    with pytest.raises(OSError, match="encrypted files are not cached") as told:
        read_parquet(path, client=client)
    assert str(path) in str(told.value)


FORBIDDEN = """
import os, sys, zerrow_store
from zerrow_store.decache import read_parquet
client = zerrow_store.connect(sys.argv[1])
assert read_parquet(sys.argv[2], client=client).num_rows == 1000
os.setegid(65534)
os.seteuid(65534)
try:
    read_parquet(sys.argv[2], client=client)
except PermissionError as error:
    print(error.filename)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_who_may_not_read_the_file_does_not_get_it(store):
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        _check_forbidden(store, Path(folder) / "f.parquet")


def _check_forbidden(store, path):
    write(path, rows=1000)
    path.chmod(0o600)
    command = [sys.executable, "-c", FORBIDDEN, store.name, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == f"{path}\n"


STRANGER = """
import os, sys
import zerrow_store, zerrow_store.connection
os.setgid(65534)
os.setuid(65534)
try:
    zerrow_store.connect(sys.argv[1])
except zerrow_store.StoreUnavailableError:
    print("no such store")
os.getuid = lambda: 0
try:
    zerrow_store.connect(sys.argv[1]).cache_list()
except zerrow_store.StoreUnavailableError as error:
    print("refused")
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_another_user_does_not_get_at_the_cache(store, path):
    write(path, rows=1000)
    read_parquet(path, client=store.connected())
    command = [sys.executable, "-c", STRANGER, store.name]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "no such store\nrefused\n"


def test_a_budget_smaller_than_a_column(tmp_path, path):
    table = write(path)
    small = Store("decache-small", budget=100_000)
    try:
        readers = [Reader(small, tmp_path, gate=True) for _ in range(3)]
        futures = [reader.start(path) for reader in readers]
        for reader in readers:
            reader.open_gate()
        assert [future.result() for future in futures] == [digest(table)] * 3
        assert small.connected().cache_list() == []
        assert small.connected().stats().bytes_stored == 0
    finally:
        small.stop()


def test_an_arena_that_is_full_does_not_fail_a_read(path, client, monkeypatch):
    from zerrow_store.decache import fetch

    def encode(data, *, move):
        raise MemoryError("the arena is full")

    table = write(path)
    monkeypatch.setattr(fetch._native, "encode", encode, raising=True)
    assert read_parquet(path, client=client).equals(table)
    monkeypatch.undo()
    assert read_parquet(path, client=client).equals(table)
    assert len(client.cache_list()) == 4


@pytest.fixture
def tight(monkeypatch):
    """A store with room for ten columns of 1.6 MB, and no disk."""
    monkeypatch.setenv("ZERROW_SPILL_DIR", "off")
    made = Store("decache-tight", budget=17_000_000)
    yield made
    made.stop()


def column(i: int) -> str:
    return f"c{i}"


def test_the_least_valuable_goes_first(tight, path):
    write(path, columns=14)
    client = tight.connected()
    for i in range(10):
        read_parquet(path, columns=[column(i)], client=client)
    gc.collect()
    wait_until(lambda: not any(entry.readers for entry in client.cache_list()))
    worth = {e.column: e.seconds / e.nbytes for e in client.cache_list()}
    kept = set(worth)
    assert len(kept) == 10
    # The eleventh does not fit, and room is made for more than itself.
    read_parquet(path, columns=[column(10)], client=client)
    evicted = kept - {entry.column for entry in client.cache_list()}
    assert 0 < len(evicted) <= 3
    assert evicted == set(sorted(kept, key=worth.__getitem__)[: len(evicted)])
    records = client.evictions()
    assert {record.name.rpartition(":")[2] for record in records} >= evicted
    assert {record.way for record in records} == {"drop"}
    for name in evicted:
        read_parquet(path, columns=[name], client=client)
    again = {r.name.rpartition(":")[2]: r for r in client.evictions() if r.returned}
    assert set(again) == evicted
    assert all(record.seconds > 0 for record in again.values())


def test_what_is_read_is_not_evicted(tight, path):
    table = write(path, columns=14)
    client = tight.connected()
    views = [read_parquet(path, columns=[column(i)], client=client) for i in range(9)]
    for i in range(9, 14):
        read_parquet(path, columns=[column(i)], client=client)
        gc.collect()
    present = {entry.column for entry in client.cache_list()}
    assert {column(i) for i in range(9)} <= present
    for i, view in enumerate(views):
        assert view.equals(table.select([column(i)]))


def test_ordinary_puts_push_entries_out(tight, path):
    write(path, columns=10)
    client = tight.connected()
    read_parquet(path, client=client)
    gc.collect()
    wait_until(lambda: not any(entry.readers for entry in client.cache_list()))
    table = pa.table({"x": np.arange(1_000_000)})
    object_id = client.put(table)
    assert 0 < len(client.cache_list()) < 6
    assert client.get(object_id).equals(table)
    # What could not fit even without the cache pushes nothing out.
    present = len(client.cache_list())
    with pytest.raises(Exception, match="full"):
        client.put(pa.table({"x": np.arange(3_000_000)}))
    assert len(client.cache_list()) == present


def test_after_a_restart_nothing_is_evicted_from_under_its_readers(tight, path, tmp_path):
    table = write(path, columns=10)
    reader = Reader(tight, tmp_path)
    reader.read(path)
    client = tight.connected()
    os.kill(reader.pid, 19)  # SIGSTOP: it comes back late
    os.kill(tight.server_pid(), 9)
    with ThreadPoolExecutor(1) as thread:
        put = thread.submit(client.put, pa.table({"x": np.arange(1_000_000)}))
        time.sleep(1.5)  # it waits: what is idle is known only once readers are back
        assert not put.done()
        assert len(client.cache_list()) == 10
        os.kill(reader.pid, 18)
        assert reader.worker.do("digest(table)") == digest(table)
        with pytest.raises(StoreFullError):
            put.result()
    assert len(client.cache_list()) == 10
    assert reader.worker.do("digest(table)") == digest(table)


# --- other file systems ---


def test_a_local_file_system_given_as_such(client, path):
    table = write(path)
    local = pafs.LocalFileSystem()
    assert read_parquet(str(path), filesystem=local, client=client).equals(table)
    below = pafs.SubTreeFileSystem(str(path.parent), local)
    assert read_parquet(path.name, filesystem=below, client=client).equals(table)
    assert {entry.path for entry in client.cache_list()} == {str(path)}
    assert len(client.cache_list()) == 4


def test_an_fsspec_file_system(client, tmp_path):
    fsspec = pytest.importorskip("fsspec")
    path = tmp_path / "f.parquet"
    table = write(path)
    # Not seen through as a local one: identified by what it tells of the file.
    remote = fsspec.filesystem("dirlike")
    assert read_parquet(str(path), filesystem=remote, client=client).equals(table)
    assert client.cache_list() == []  # it has just changed, and might have changed again
    os.utime(path, (time.time(), time.time() - 10))
    for _ in range(2):
        assert read_parquet(str(path), filesystem=remote, client=client).equals(table)
    assert len(client.cache_list()) == 4
    assert client.cache_list()[0].hits == 1
    changed = write(path, seed=1, rows=100_000)
    assert read_parquet(str(path), filesystem=remote, client=client).equals(changed)


def test_a_file_system_of_this_process_alone_is_not_cached(client):
    fsspec = pytest.importorskip("fsspec")
    memory = fsspec.filesystem("memory")
    table = pa.table({"x": range(1000)})
    with memory.open("/f.parquet", "wb") as file:
        pq.write_table(table, file)
    assert read_parquet("/f.parquet", filesystem=memory, client=client).equals(table)
    assert client.cache_list() == []


@pytest.fixture(autouse=True, scope="module")
def _dirlike():
    fsspec = pytest.importorskip("fsspec")
    from fsspec.implementations.local import LocalFileSystem

    class DirLike(LocalFileSystem):
        protocol = "dirlike"

    fsspec.register_implementation("dirlike", DirLike, clobber=True)


def test_a_recent_remote_change_is_not_trusted(client, tmp_path):
    """Times in seconds cannot tell two changes within one second apart."""
    path = tmp_path / "f.parquet"
    table = write(path)

    now = time.time()
    os.utime(path, (now, int(now)))
    assert read_parquet(str(path), client=client).equals(table)
    assert client.cache_list() == []
