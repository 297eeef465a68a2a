"""What is stored, shared and copied when tables go through tasks."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest
import ray

from tests.helpers.rays import Moved, size_of, total
from tests.helpers.waiting import eventually

pytestmark = pytest.mark.usefixtures("cluster")

ROWS = 1_000_000


@ray.remote
def identity(value):
    return value


@ray.remote
def apply(function, *tables):
    return function(*tables)


def test_ten_identity_tasks_hold_one_table(big):
    with Moved() as moved:
        ref = ray.put(big)
        for _ in range(10):
            ref = identity.remote(ref)
        result = ray.get(ref)
    assert result.equals(big)
    assert moved.copied == 0
    assert big.nbytes <= moved.stored < 1.05 * big.nbytes


def test_append_column_stores_the_new_column_only(big):
    ref = ray.put(big)
    with Moved() as moved:
        out = apply.remote(lambda t: t.append_column("new", pc.multiply(t["c0"], 2)), ref)
        ray.wait([out])
    assert moved.copied == 0
    new = big["c0"].nbytes
    assert new <= moved.stored < 1.05 * new
    assert ray.get(out)["new"].equals(pc.multiply(big["c0"], 2))


def test_three_columns_over_one_buffer_store_it_once():
    column = pc.add(pa.array(np.arange(ROWS)), 1)
    with Moved() as moved:
        ref = ray.put(pa.table({"a": column, "b": column, "c": column}))
    assert column.nbytes <= moved.stored < 1.05 * column.nbytes
    assert ray.get(ref)["c"].chunk(0).equals(column)


@pytest.mark.parametrize(
    "derive",
    [
        lambda t: t.select(["c1", "c3", "c5"]),
        lambda t: t.slice(3, 1_500_001),
        lambda t: pa.concat_tables([t, t]),
        lambda t: t.rename_columns([name.upper() for name in t.column_names]),
    ],
    ids=["select", "slice", "concat_tables", "rename_columns"],
)
def test_derived_tables_store_nothing(big, derive):
    ref = ray.put(big)
    with Moved() as moved:
        out = apply.remote(derive, ref)
        ray.wait([out])
    assert (moved.stored, moved.shared, moved.copied) == (0, 0, 0)
    assert moved.reshared > 0
    assert ray.get(out).equals(derive(big))


def test_slice_of_strings_with_nulls_stores_nothing():
    strings = pa.array([None if i % 7 == 0 else f"value {i}" for i in range(ROWS)])
    ref = ray.put(pa.table({"s": pc.utf8_upper(strings), "b": pc.is_null(strings)}))
    with Moved() as moved:
        out = apply.remote(lambda t: t.slice(5, ROWS // 2 + 3), ref)
        ray.wait([out])
    assert (moved.stored, moved.copied) == (0, 0)
    assert ray.get(out).equals(ray.get(ref).slice(5, ROWS // 2 + 3))


@pytest.mark.parametrize("kind", ["record_batch", "array", "chunked_array"])
def test_ten_row_slice_ships_no_copy_of_the_rest(kind):
    array = pc.add(pa.array(np.arange(10_000_000)), 1)
    whole = {
        "record_batch": pa.record_batch([array], names=["x"]),
        "array": array,
        "chunked_array": pa.chunked_array([array]),
    }[kind]
    part = whole.slice(777, 10)
    ref = identity.remote(ray.put(part))
    assert ray.get(ref).equals(part)
    assert size_of(ref) < 1_000_000


def make_big():
    base = pa.array(np.arange(ROWS))
    return pa.table({f"c{i}": pc.add(base, i) for i in range(10)})


def test_selecting_a_column_frees_the_others():
    before = total()["bytes_stored"]
    # A task's result, as Ray keeps a put for as long as the lineage of `out` needs it.
    ref = apply.remote(make_big)
    ray.wait([ref])
    out = apply.remote(lambda t: t.select(["c0"]), ref)
    ray.wait([out])
    del ref
    one = 8 * ROWS
    eventually(lambda: total()["bytes_stored"] - before < 1.05 * one, "nine columns are freed")
    assert ray.get(out).equals(make_big().select(["c0"]))


def outputs(folder):
    table = pa.table({"k": np.arange(ROWS) % 1000, "x": np.arange(ROWS) * 0.5})
    right = pa.table({"k": np.arange(1000), "y": np.arange(1000) * 3.0})
    pq.write_table(table, folder / "t.parquet")
    pyarrow.csv.write_csv(table, folder / "t.csv")
    frame = table.to_pandas()
    return {
        "compute": lambda: pa.table({"z": pc.add(table["x"], 1)}),
        "filter": lambda: table.filter(pc.field("x") > 10),
        "join": lambda: table.join(right, "k"),
        "group_by": lambda: table.group_by("x").aggregate([("k", "sum")]),
        "sort": lambda: table.sort_by([("x", "descending")]),
        "dataset": lambda: pyarrow.dataset.dataset(folder / "t.parquet").to_table(
            filter=pc.field("k") > 5
        ),
        "csv": lambda: pyarrow.csv.read_csv(folder / "t.csv"),
        "parquet": lambda: pq.read_table(folder / "t.parquet"),
        "numpy": lambda: pa.table({"r": np.random.default_rng(0).random(ROWS)}),
        "pandas": lambda: pa.Table.from_pandas((frame * 2).sort_values("x"), preserve_index=False),
    }


@pytest.mark.parametrize(
    "name",
    [
        "compute",
        "filter",
        "join",
        "group_by",
        "sort",
        "dataset",
        "csv",
        "parquet",
        "numpy",
        "pandas",
    ],
)
def test_outputs_are_published_where_they_were_born(tmp_path, name):
    make = outputs(tmp_path)[name]
    with Moved() as moved:
        out = apply.remote(make)
        ray.wait([out])
    assert moved.copied == 0
    assert moved.shared > 0
    expected = make()
    got = ray.get(out)
    if name in ("join", "group_by"):
        keys = [(column, "ascending") for column in expected.column_names]
        expected, got = expected.sort_by(keys), got.sort_by(keys)
    assert got.equals(expected)


@pytest.mark.parametrize("name", ["polars", "duckdb"])
def test_foreign_outputs_are_copied_once_and_counted(name):
    def polars_output():
        import polars as pl

        # polars takes NumPy's memory as it is: what it has computed itself is what is copied.
        return pl.select(x=pl.int_range(ROWS)).with_columns(y=pl.col("x") * 2).to_arrow()

    def duckdb_output():
        import duckdb

        return duckdb.sql(f"select range as x, range * 2 as y from range({ROWS})").to_arrow_table()

    make = {"polars": polars_output, "duckdb": duckdb_output}[name]
    nbytes = make().nbytes
    with Moved() as moved:
        out = apply.remote(make)
        ray.wait([out])
    assert 0.5 * nbytes < moved.copied < 1.1 * nbytes
    with Moved() as moved:
        ray.wait([identity.remote(out)])
    assert moved.copied == 0
    assert ray.get(out)["y"].to_pylist()[-1] == 2 * (ROWS - 1)


def test_pandas_frames_travel_by_reference():
    frame = pd.DataFrame(np.random.default_rng(0).random((ROWS, 4)), columns=list("abcd"))
    frame["s"] = pd.array([f"s{i % 100}" for i in range(ROWS)], dtype=pd.ArrowDtype(pa.string()))
    frame.attrs["unit"] = "m"
    with Moved() as moved:
        ref = ray.put(frame)
    assert moved.shared >= ROWS * 4 * 8
    assert moved.copied == 0
    got = ray.get(identity.remote(ref))
    pd.testing.assert_frame_equal(got, frame)
    assert got.attrs == frame.attrs
    assert not got["a"].to_numpy().flags.writeable


def test_a_frame_changed_after_the_put_does_not_change_the_object():
    values = np.zeros(ROWS)
    ref = ray.put(pa.table({"x": values}))
    values[:] = 1
    assert pc.sum(ray.get(ref)["x"]).as_py() == 0
    assert pc.sum(ray.get(identity.remote(ref))["x"]).as_py() == 0
    assert values.sum() == ROWS


def test_polars_frames_travel_through_arrow():
    import polars as pl
    from polars.testing import assert_frame_equal

    frame = pl.DataFrame({"x": np.arange(ROWS), "s": [f"s{i % 100}" for i in range(ROWS)]})
    with Moved() as moved:
        ref = ray.put(frame)
    assert moved.stored > 0
    assert_frame_equal(ray.get(identity.remote(ref)), frame)


def test_a_consumer_cannot_write_into_a_table(big):
    @ray.remote(max_retries=0)
    def overwrite(table):
        import ctypes

        buffer = table["c0"].chunk(0).buffers()[1]
        assert not np.frombuffer(buffer, dtype=np.uint8).flags.writeable
        ctypes.memset(buffer.address, 255, 8)

    ref = ray.put(big)
    with pytest.raises(ray.exceptions.WorkerCrashedError):
        ray.get(overwrite.remote(ref))
    assert ray.get(ref).equals(big)
