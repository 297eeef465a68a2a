"""One decoded copy for all: who decodes what, where it lies, how long it stays."""

import gc
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

import zerrow_store
from tests.helpers.pyarrows import needs_views_in_parquet
from tests.helpers.readers import Reader, digest, write
from tests.helpers.stores import Store
from tests.helpers.waiting import wait_until
from zerrow_store import once
from zerrow_store.decache import read_parquet


@pytest.fixture
def path(tmp_path):
    return tmp_path / "f.parquet"


def chunks(columns, row_groups=range(4)):
    return sorted(f"{c} {g}" for c in columns for g in row_groups)


def test_a_second_process_decodes_nothing(store, path, tmp_path):
    table = write(path)
    first, second = Reader(store, tmp_path), Reader(store, tmp_path)
    assert first.read(path) == digest(table)
    assert sorted(first.decoded()) == chunks(["c0", "c1", "c2", "c3"])
    before = store.connected().stats()
    assert second.read(path) == digest(table)
    assert second.decoded() == []
    after = store.connected().stats()
    assert after.bytes_stored == before.bytes_stored
    assert after.bytes_copied == 0


def test_only_what_is_missing_is_decoded(store, path, tmp_path):
    write(path)
    reader = Reader(store, tmp_path)
    reader.read(path, columns=["c0", "c1"])
    reader.read(path, columns=["c1", "c2"])
    assert sorted(reader.decoded()) == chunks(["c0", "c1", "c2"])


def test_row_groups_are_decoded_one_by_one(client, path):
    table = pa.table({"i": range(1000), "x": range(1000)})
    pq.write_table(table, path, row_group_size=100)
    for limit in (50, 250, 150, 900):
        filters = [("i", "<", limit)]
        got = read_parquet(path, filters=filters, client=client)
        assert got.equals(table.slice(0, limit))
    assert sum(e.parts for e in client.cache_list() if e.column == "x") == 9
    assert read_parquet(path, client=client).equals(table)


def test_memory_is_that_of_one_copy(store, path, tmp_path):
    table = write(path, rows=1_000_000)
    readers = [Reader(store, tmp_path) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        digests = list(pool.map(lambda reader: reader.read(path), readers))
    assert digests == [digest(table)] * 4
    assert sum(len(reader.decoded()) for reader in readers) == 16
    assert store.connected().stats().bytes_stored == pytest.approx(table.nbytes, rel=0.02)
    # As the kernel sees it, with what the decoding left warm in the arena.
    wait_until(lambda: store.memory() < 1.5 * table.nbytes)


def test_entries_outlive_their_reader_and_its_process(store, path, tmp_path):
    table = write(path)
    first = Reader(store, tmp_path)
    first.read(path)
    first.worker.kill()
    client = store.connected()
    wait_until(lambda: not any(entry.readers for entry in client.cache_list()))
    second = Reader(store, tmp_path)
    assert second.read(path) == digest(table)
    assert second.decoded() == []


def test_what_is_made_of_a_read_table_refers_to_it(client, path):
    write(path)
    table = read_parquet(path, client=client)
    before = client.stats()
    object_id = client.put(table.select(["c1", "c3"]).slice(10, 1000))
    after = client.stats()
    assert after.bytes_stored == before.bytes_stored
    assert after.bytes_reshared > before.bytes_reshared
    assert after.bytes_copied == before.bytes_copied
    # What refers to an entry keeps its bytes when the entry goes.
    expected = pq.read_table(path).select(["c1", "c3"]).slice(10, 1000)
    del table
    gc.collect()
    wait_until(lambda: not any(entry.readers for entry in client.cache_list()))
    assert client.cache_drop(str(path)) == 4
    assert client.get(object_id).equals(expected)
    assert 0 < client.stats().bytes_stored < after.bytes_stored
    client.delete(object_id)
    wait_until(lambda: client.stats().bytes_stored == 0)


def test_a_view_outlives_its_entry(client, path):
    expected = write(path)
    table = read_parquet(path, client=client)
    once = client.stats().bytes_stored
    assert client.cache_drop() == 4
    assert client.cache_list() == []
    assert table.equals(expected)
    again = read_parquet(path, client=client)
    assert client.stats().bytes_stored == 2 * once
    del table
    gc.collect()
    wait_until(lambda: client.stats().bytes_stored == once)
    assert again.equals(expected)


def test_nobody_writes_into_what_is_cached(client, path):
    write(path)
    table = read_parquet(path, client=client)
    column = table.column(0).chunk(0).to_numpy()
    with pytest.raises(ValueError, match="read-only"):
        column[0] = 1.0


def test_what_the_list_says(client, path):
    table = write(path)
    kept = [read_parquet(path, columns=["c0"], client=client) for _ in range(3)]
    (entry,) = client.cache_list()
    assert (entry.path, entry.column, entry.parts) == (str(path), "c0", 4)
    assert entry.nbytes == pytest.approx(table.nbytes / 4, rel=0.02)
    assert (entry.readers, entry.hits) == (3, 2)
    assert entry.seconds > 0
    del kept
    gc.collect()
    wait_until(lambda: client.cache_list()[0].readers == 0)


def test_columns_of_structs_are_units_of_their_own(client, path):
    rows = [{"a": i, "b": {"c": f"t{i}", "d": [i]}} if i % 3 else None for i in range(1000)]
    table = pa.table({"s": rows, "l": [[{"u": i, "v": i}] for i in range(1000)]})
    pq.write_table(table, path, row_group_size=300)
    assert read_parquet(path, columns=["s.b.c"], client=client).equals(
        pq.read_table(path, columns=["s.b.c"])
    )
    assert [e.column for e in client.cache_list()] == ["s.b.c"]
    assert read_parquet(path, client=client).equals(table)
    assert sorted(e.column for e in client.cache_list()) == ["l", "s.a", "s.b.c", "s.b.d"]
    # Whole structs are put together without copying anything.
    copied = client.stats().bytes_copied
    allocated = pa.total_allocated_bytes()
    whole = read_parquet(path, columns=["s"], client=client)
    assert pa.total_allocated_bytes() == allocated
    assert whole.equals(table.select(["s"]))
    assert client.stats().bytes_copied == copied


@pytest.mark.parametrize(
    "kind", [pa.string(), pytest.param(pa.string_view(), marks=needs_views_in_parquet)], ids=str
)
def test_share_strings_gives_the_file_one_dictionary(client, path, kind):
    text = [f"word {i % 50}" for i in range(4000)]
    table = pa.table({"s": text, "v": pa.array(text, kind), "i": range(4000)})
    pq.write_table(table, path, row_group_size=1000)
    got = read_parquet(path, share_strings=True, client=client)
    assert got.select(["i"]).equals(table.select(["i"]))
    for name in ("s", "v"):
        column = got.column(name)
        assert column.type == pa.dictionary(pa.int32(), pa.string())
        assert column.cast(pa.string()).to_pylist() == text
        dictionaries = {chunk.dictionary.buffers()[2].address for chunk in column.chunks}
        assert len(dictionaries) == 1
    filters = [("i", "<", 500), ("s", "=", "word 7")]
    few = read_parquet(path, share_strings=True, filters=filters, client=client)
    expected = pq.read_table(path, filters=filters, columns=["s", "i"])
    assert few.column("s").cast(pa.string()).equals(expected.column("s"))
    assert few.column("i").equals(expected.column("i"))
    # Rows that are taken keep the dictionary: nothing of the text is stored again.
    taken = got.select(["s"]).take(pa.array(range(0, 4000, 2)))
    before = client.stats()
    client.put(taken)
    after = client.stats()
    assert after.bytes_reshared > before.bytes_reshared
    assert after.bytes_stored - before.bytes_stored <= 3000 * 4


def test_share_strings_over_folders(client, tmp_path):
    for i in range(3):
        table = pa.table({"s": [f"{i}", "both"], "i": [i, i]})
        pq.write_table(table, tmp_path / f"{i}.parquet")
    got = read_parquet(str(tmp_path), share_strings=True, client=client)
    assert got.column("s").cast(pa.string()).equals(pq.read_table(str(tmp_path)).column("s"))


def test_without_a_store_files_are_decoded(path, monkeypatch, caplog):
    from zerrow_store.decache import store as stores

    table = write(path)
    monkeypatch.setattr(stores, "_clients", {})
    monkeypatch.setattr(once, "_warned", set())
    monkeypatch.setattr(stores.default_client, "__defaults__", ("no-such-store",))
    for _ in range(2):
        assert zerrow_store.read_parquet(path).equals(table)
    assert caplog.text.count("files are decoded without the cache") == 1


def test_a_store_of_another_start_is_found(tmp_path, path, monkeypatch):
    from zerrow_store.decache import store as stores

    table = write(path)
    monkeypatch.setattr(stores, "_clients", {})
    for _ in range(2):
        store = Store("decache-again", budget=1 << 30)
        monkeypatch.setattr(stores.default_client, "__defaults__", (store.name,))
        assert zerrow_store.read_parquet(path).equals(table)
        assert len(store.connected().cache_list()) == 4
        stores._clients[store.name].close()
        store.stop()


def test_two_processes_of_compute(store, path, tmp_path):
    """A sanity check with Arrow's own engine, which reads the mapped bytes from many threads."""
    table = write(path)
    got = read_parquet(path, client=store.connected())
    assert pc.sum(got["c0"]).as_py() == pytest.approx(pc.sum(table["c0"]).as_py())
    assert got.sort_by("c1").equals(table.sort_by("c1"))
