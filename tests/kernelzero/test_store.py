"""Moved memory in a node store: other processes read it, and it goes when nobody needs it."""

import gc
import subprocess
import sys
import textwrap

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

import zerrow_store
from tests.helpers.data import table
from tests.helpers.waiting import eventually
from zerrow_store.native import _native

pytestmark = pytest.mark.usefixtures("moving")


def test_another_process_reads_and_reshares(client, name) -> None:
    data = table()
    object_id = client.put(data)
    script = """
        import sys
        import pyarrow.compute as pc
        import zerrow_store
        client = zerrow_store.connect(sys.argv[1])
        table = client.get(bytes.fromhex(sys.argv[2]))
        print(pc.sum(table["x"]).as_py(), client.put(table.select(["y"])).hex())
    """
    command = [sys.executable, "-c", textwrap.dedent(script), name, object_id.hex()]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    total, reshared = done.stdout.split()
    assert int(total) == sum(range(100_000))
    stats = client.stats()
    assert (stats.bytes_stored, stats.bytes_reshared) == (data.nbytes, data.nbytes // 2)
    client.delete(object_id)
    assert client.get(bytes.fromhex(reshared)).equals(data.select(["y"]))


def test_it_goes_with_the_object_and_its_owner(client) -> None:
    data = table()
    object_id = client.put(data)
    assert client.stats().segments == 1
    client.delete(object_id)
    eventually(lambda: client.stats().segments == 0, "the store has let go of the file", seconds=20)
    assert _native.deanon_stats()["files"] == 1
    # The owner has it still, and can publish it again.
    again = client.put(data)
    assert client.stats().bytes_stored == data.nbytes
    del data
    assert _native.deanon_stats()["files"] == 0
    assert client.get(again).equals(table())
    client.delete(again)
    eventually(lambda: client.stats().segments == 0, "the store has let go of the file", seconds=20)


def test_a_put_that_is_refused_leaves_nothing(client) -> None:
    first = client.put(table(), object_id=b"mine")
    with pytest.raises(Exception, match="exists already"):
        client.put(table(start=5), object_id=first)
    eventually(lambda: client.stats().segments == 1, "the second's file is gone", seconds=20)
    gc.collect()
    assert _native.deanon_stats()["files"] == 0


def test_numpy_and_arrow_in_one_table(client) -> None:
    values = np.arange(100_000.0)
    data = pa.table({"n": pa.array(values), "a": pc.multiply(pa.array(values), 2)})
    object_id = client.put(data)
    values[:] = -1
    got = client.get(object_id)
    assert got["n"].to_pylist() == list(range(100_000))
    assert got["a"][-1].as_py() == 2 * 99_999.0
    assert client.stats().bytes_copied <= 4 * 4096
    assert _native.deanon_stats()["moved"] == 1_600_000


ROWS = 600_000


def numbers() -> pa.Array:
    return pa.array(np.arange(ROWS), mask=np.arange(ROWS) % 7 == 0)


def strings() -> pa.Array:
    return pc.cast(numbers(), pa.string())


# With buffers that are large enough to be moved, and nulls.
KINDS = {
    "int64": numbers,
    "bool": lambda: pc.equal(pc.bit_wise_and(numbers(), 1), 0),
    "decimal": lambda: pc.cast(numbers(), pa.decimal128(30, 3)),
    "timestamp": lambda: pc.cast(numbers(), pa.timestamp("us", tz="UTC")),
    "string": strings,
    "large_string": lambda: pc.cast(strings(), pa.large_string()),
    "view": lambda: pc.cast(strings(), pa.string_view()),
    "dictionary": lambda: strings().dictionary_encode(),
    "list": lambda: pa.ListArray.from_arrays(np.arange(ROWS // 2 + 1, dtype=np.int32), numbers()),
    "struct": lambda: pa.StructArray.from_arrays([numbers(), strings()], ["n", "s"]),
    "run_end": lambda: pc.run_end_encode(numbers()),
}


@pytest.mark.parametrize("kind", KINDS)
def test_types(client, kind: str) -> None:
    data = pa.table({kind: KINDS[kind]()})
    got = client.get(client.put(data))
    got.validate(full=True)
    assert got.equals(data)
    sliced = client.get(client.put(data.slice(1001, 100_000)))
    assert sliced.equals(data.slice(1001, 100_000))
    stats = client.stats()
    # Edges, and what is too small to be moved.
    assert stats.bytes_copied < 20 * 8192
    # pyarrow up to 23 does not know the nbytes of views; these are whole.
    nbytes = data.get_total_buffer_size() if kind == "view" else data.nbytes
    assert stats.bytes_shared > nbytes


def test_decoded_columns_are_moved_into_the_cache(client, name, tmp_path) -> None:
    path = tmp_path / "file.parquet"
    kinds = ("int64", "bool", "string", "decimal")
    data = pa.table({kind: KINDS[kind]() for kind in kinds})
    pq.write_table(data, path, compression="none")
    assert zerrow_store.read_parquet(path, client=client).equals(data)
    gc.collect()
    stats = client.stats()
    assert len(client.cache_list()) == 4
    assert stats.bytes_copied < 20 * 8192
    assert stats.bytes_shared > data.nbytes // 2
    script = """
        import sys
        import zerrow_store
        client = zerrow_store.connect(sys.argv[1])
        print(zerrow_store.read_parquet(sys.argv[2], client=client).num_rows)
    """
    command = [sys.executable, "-c", textwrap.dedent(script), name, str(path)]
    assert int(subprocess.check_output(command)) == ROWS
    assert all(entry.hits == 1 for entry in client.cache_list())
    client.cache_drop()
    eventually(
        lambda: client.stats().segments == 0, "the store has let go of the files", seconds=20
    )
    assert _native.deanon_stats()["files"] == 0
