"""Reading Parquet in Ray: one decoded copy for all tasks of all jobs."""

import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import ray

import zerrow_ray
from tests.helpers.rays import Moved, total
from tests.helpers.waiting import eventually
from zerrow_ray.reading import node_client

pytestmark = pytest.mark.usefixtures("cluster")


@pytest.fixture
def path(tmp_path):
    rng = np.random.default_rng(0)
    rows = 1_000_000
    table = pa.table({"k": np.arange(rows), "x": rng.random(rows), "y": rng.random(rows)})
    pq.write_table(table, tmp_path / "f.parquet", row_group_size=rows // 5, use_dictionary=False)
    yield str(tmp_path / "f.parquet")
    node_client().cache_drop()


@ray.remote
def columns_of(path, columns=None, filters=None):
    return zerrow_ray.read_parquet(path, columns=columns, filters=filters)


def test_tasks_share_one_decoded_copy(path):
    expected = pq.read_table(path)
    with Moved() as moved:
        refs = [columns_of.remote(path) for _ in range(8)]
        for ref in refs:
            assert ray.get(ref).equals(expected)
        entries = node_client().cache_list()
    assert sorted(entry.column for entry in entries) == ["k", "x", "y"]
    # Eight reads, the one who decoded not counted, of each column.
    assert sum(entry.hits for entry in entries) == 7 * 3
    assert moved.stored == sum(entry.nbytes for entry in entries)
    assert moved.copied == 0
    assert moved.reshared >= 8 * moved.stored


def test_a_subset_of_columns_stores_nothing_new(path):
    ray.get(columns_of.remote(path))
    stored = total()["bytes_stored"]
    ref = columns_of.remote(path, ["y", "k"])
    assert ray.get(ref).equals(pq.read_table(path, columns=["y", "k"]))
    assert total()["bytes_stored"] == stored


def test_a_filtered_read(path):
    filters = [("k", ">", 900_000), ("x", "<", 0.5)]
    got = ray.get(columns_of.remote(path, None, filters))
    assert got.equals(pq.read_table(path, filters=filters))


@ray.remote
def sum_of_x(path):
    import duckdb

    with duckdb.connect() as connection:
        connection.register("rows", zerrow_ray.scan(path))
        return connection.sql("SELECT sum(x) FROM rows").fetchone()[0]


def test_tasks_scan_what_is_decoded_once(path):
    expected = pc.sum(pq.read_table(path)["x"]).as_py()
    for _ in range(2):
        assert ray.get(sum_of_x.remote(path)) == pytest.approx(expected)
    assert [(entry.column, entry.hits) for entry in node_client().cache_list()] == [("x", 1)]


ANOTHER_JOB = """
import sys, ray, zerrow_ray
zerrow_ray.init(address=sys.argv[1], log_to_driver=False)
@ray.remote
def rows(path):
    return zerrow_ray.read_parquet(path).num_rows
assert ray.get(rows.remote(sys.argv[2])) == 1_000_000
"""


def test_another_job_decodes_nothing(path):
    ray.get(columns_of.remote(path))
    before = {entry.object_id: entry.hits for entry in node_client().cache_list()}
    address = ray.get_runtime_context().gcs_address
    subprocess.run([sys.executable, "-c", ANOTHER_JOB, address, path], check=True)
    after = {entry.object_id: entry.hits for entry in node_client().cache_list()}
    assert after == {object_id: hits + 1 for object_id, hits in before.items()}


def test_what_a_task_returns_outlives_the_entry(path):
    expected = pq.read_table(path, columns=["x"])
    ref = columns_of.remote(path, ["x"])
    ray.wait([ref], fetch_local=False)
    node_client().cache_drop()
    assert ray.get(ref).equals(expected)
    del ref
    eventually(lambda: total()["bytes_stored"] == 0, "all is freed")
