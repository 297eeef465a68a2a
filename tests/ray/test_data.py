"""Ray Data over the plugin, and its Parquet reads through each node's cache.

What Ray's own reader returns or raises is the oracle.

The file is long because each argument of Ray's reader is a case.
"""

import importlib
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest
import ray
import ray.data
from ray.data import FileShuffleConfig
from ray.data.datasource import Partitioning
from ray.data.expressions import col

import zerrow_ray
from tests.helpers.rays import Moved, total
from tests.helpers.versions import needs_known_ray_data
from zerrow_ray.reading import node_client

pytestmark = [
    needs_known_ray_data,
    pytest.mark.usefixtures("cluster"),
    # Ray Data warns of arguments that it still takes, and of a setting of its own.
    pytest.mark.filterwarnings("default::DeprecationWarning"),
    pytest.mark.filterwarnings("default::FutureWarning"),
]


def test_pipeline_gives_the_same_rows(tmp_path):
    rng = np.random.default_rng(0)
    source = tmp_path / "in"
    source.mkdir()
    tables = []
    for part in range(4):
        table = pa.table(
            {
                "k": rng.integers(0, 10**6, 500_000),
                "x": rng.random(500_000),
                "part": [part] * 500_000,
            }
        )
        tables.append(table)
        pq.write_table(table, source / f"{part}.parquet")

    def double(batch: pa.Table) -> pa.Table:
        return batch.append_column("y", pc.multiply(batch["x"], 2))

    with Moved() as moved:
        (
            ray.data.read_parquet(str(source))
            .map_batches(double, batch_format="pyarrow", batch_size=None)
            .filter(expr="k < 900000")
            .sort(["k", "x"])
            .write_parquet(str(tmp_path / "out"))
        )
    expected = pa.concat_tables(tables)
    expected = double(expected).filter(pc.field("k") < 900000)
    expected = expected.sort_by([("k", "ascending"), ("x", "ascending")])
    got = pq.read_table(tmp_path / "out")
    keys = [("k", "ascending"), ("x", "ascending")]
    assert got.sort_by(keys).select(expected.column_names).equals(expected)
    assert moved.shared > expected.nbytes // 2
    assert moved.copied < moved.shared // 20


@pytest.fixture(params=[True, False], ids=["V2", "V1"])
def v2(request, monkeypatch):
    """Whether Ray Data reads as it does by default."""
    monkeypatch.setattr(ray.data.DataContext.get_current(), "use_datasource_v2", request.param)
    return request.param


@pytest.fixture
def in_order(monkeypatch):
    """Blocks come in the order of what is read."""
    options = ray.data.DataContext.get_current().execution_options
    monkeypatch.setattr(options, "preserve_order", True)


@pytest.fixture(autouse=True)
def few_processes(monkeypatch):
    """One that reads footers, where Ray has 32 for each read; and one thread that lists files.

    Where there is no aiohttp, Ray's threads race when they try to import fsspec's HTTP module: at
    times one sees it half loaded, and fails.
    """
    monkeypatch.setenv("RAY_DATA_PARQUET_FOOTER_NUM_ACTORS", "1")
    indexer = importlib.import_module(
        "ray.data._internal.datasource_v2.common.non_sampling_file_indexer"
    )
    monkeypatch.setattr(indexer.NonSamplingFileIndexer, "_DEFAULT_NUM_WORKERS", 1)


@pytest.fixture
def empty_cache():
    """A cache that is empty before and after."""
    node_client().cache_drop()
    yield
    node_client().cache_drop()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A hive of four files of several row groups each."""
    rng = np.random.default_rng(0)
    rows = 4000
    table = pa.table(
        {
            "k": np.arange(rows),
            "x": pa.array(rng.random(rows), mask=rng.random(rows) < 0.1),
            "s": [f"text {i % 100}" for i in range(rows)],
            "list": [[i, None] if i % 3 else None for i in range(rows)],
            "struct": [{"a": i, "b": {"c": str(i)}} if i % 4 else None for i in range(rows)],
            "year": [2000 + i // 1000 for i in range(rows)],
        }
    )
    root = tmp_path_factory.mktemp("hive") / "in"
    pq.write_to_dataset(table, root, partition_cols=["year"], max_rows_per_group=300)
    return str(root)


def outcome(define):
    """The schema and the blocks of a dataset, or what was raised."""
    try:
        dataset = define()
        schema = dataset.schema()
        blocks = ray.get(dataset.to_arrow_refs())
    except Exception as error:
        cause = getattr(error, "cause", None)
        return type(error).__name__, type(cause).__name__
    return None if schema is None else schema.base_schema, blocks


def compare(source, then=lambda dataset: dataset, *, ordered=True, times=1, **options):
    """Read without and with the cache; returns what is the same."""

    def read(read_parquet):
        # Ray adds to what it is given.
        own = {name: dict(v) if isinstance(v, dict) else v for name, v in options.items()}
        return outcome(lambda: then(read_parquet(source, **own)))

    schema, blocks = expected = read(ray.data.read_parquet)
    for _ in range(times):
        got = read(zerrow_ray.data.read_parquet)
        if isinstance(schema, str):
            assert got == expected
            continue
        assert not isinstance(got[0], str), got
        assert got[0] == schema
        ours, theirs = got[1], blocks
        if not ordered:
            ours, theirs = ([pa.concat_tables(b).sort_by("k")] for b in (ours, theirs))
        assert [b.num_rows for b in ours] == [b.num_rows for b in theirs]
        for our, their in zip(ours, theirs, strict=True):
            assert our.schema.equals(their.schema, check_metadata=True)
            assert our.equals(their)
    return expected


def first_of(folder):
    return str(sorted(Path(folder).rglob("*.parquet"))[0])


READS = {
    "everything": {},
    "columns": {"columns": ["x", "k"]},
    "a partition's column": {"columns": ["year", "k"]},
    "no columns": {"columns": []},
    "a missing column": {"columns": ["k", "missing"]},
    "types of partitions": {"partitioning": Partitioning("hive", field_types={"year": int})},
    "no partitions": {"partitioning": None},
    "paths": {"include_paths": True},
    "row hashes": {"include_row_hash": True},
    "paths, row hashes, columns": {
        "include_paths": True,
        "include_row_hash": True,
        "columns": ["s"],
    },
    "dictionaries": {"dataset_kwargs": {"read_dictionary": ["s"]}},
    "a schema": {
        "schema": pa.schema([("k", pa.int32()), ("s", pa.large_string()), ("new", pa.int8())])
    },
    "a schema that does not fit": {"schema": pa.schema([("s", pa.int64())])},
    "shuffled": {"shuffle": FileShuffleConfig(seed=3)},
    "one block": {"override_num_blocks": 1},
    "many blocks": {"override_num_blocks": 9},
    "a filter argument": {"filter": pc.field("k") < 700},
    "a batch size": {"batch_size": 70},
    "an unknown argument": {"nonsense": 1},
    "missing paths": {"ignore_missing_paths": True},
}


@pytest.mark.parametrize("name", READS)
@pytest.mark.usefixtures("in_order", "v2")
def test_arguments(folder, name):
    compare(folder, **READS[name])


THEN = {
    "select": lambda d: d.select_columns(["s", "year", "k"]),
    "select nothing": lambda d: d.select_columns([]),
    "filter": lambda d: d.filter(expr=col("k") < 700),
    "filter a partition": lambda d: d.filter(expr=col("year") == "2001"),
    "filter both": lambda d: d.filter(expr=(col("year") == "2001") & (col("k") > 1500)),
    "filter and select": lambda d: d.filter(expr=col("k") > 3500).select_columns(["x"]),
    "filter all": lambda d: d.filter(expr=col("k") < 0),
    "filter a missing column": lambda d: d.filter(expr=col("missing") < 0),
    "limit": lambda d: d.limit(750),
    "limit and filter": lambda d: d.filter(expr=col("k") > 500).limit(10),
    "rename": lambda d: d.rename_columns({"k": "key"}).select_columns(["key"]),
}


@pytest.mark.parametrize("name", THEN)
@pytest.mark.usefixtures("in_order", "v2")
def test_what_is_pushed_down(folder, name):
    compare(folder, THEN[name])


@pytest.mark.parametrize("nbytes", [1, 20_000])
@pytest.mark.parametrize("options", [{}, {"include_row_hash": True}], ids=str)
@pytest.mark.usefixtures("in_order")
def test_row_groups_that_are_packed_in_bins(folder, monkeypatch, nbytes, options):
    monkeypatch.setenv("RAY_DATA_PARQUET_BIN_PACKING_BYTES", str(nbytes))
    compare(folder, lambda d: d.filter(expr=col("k") > 400), times=2, **options)


@pytest.mark.usefixtures("v2")
def test_out_of_order(folder, monkeypatch):
    monkeypatch.setenv("RAY_DATA_PARQUET_BIN_PACKING_BYTES", "20000")
    compare(folder, ordered=False, times=2)


@pytest.mark.usefixtures("v2", "in_order")
class TestFiles:
    def write(self, tmp_path, *tables, **options):
        for i, table in enumerate(tables):
            pq.write_table(table, tmp_path / f"{i}.parquet", **options)
        return str(tmp_path)

    def test_nothing_but_nulls_in_the_first(self, tmp_path):
        nulls = pa.table({"k": range(3), "s": pa.nulls(3)})
        filled = pa.table({"k": range(3, 6), "s": ["a", None, "b"]})
        compare(self.write(tmp_path, nulls, filled))

    def test_differing_schemas(self, tmp_path):
        wide = pa.table({"k": range(3), "s": ["a", "b", "c"], "n": [{"a": 1}] * 3})
        narrow = pa.table({"n": [{"a": 1, "b": 2}], "k": pa.array([3], pa.int32())})
        root = self.write(tmp_path, wide, narrow)
        compare(root)
        compare(root, lambda d: d.filter(expr=col("s") == "a"))

    def test_tensors(self, tmp_path):
        same = ray.data.from_numpy(np.arange(240).reshape(20, 3, 4))
        same.write_parquet(str(tmp_path / "same"))
        compare(str(tmp_path / "same"), times=2)
        ragged = [{"k": i, "t": np.ones((i + 1, 2))} for i in range(6)]
        ray.data.from_items(ragged).write_parquet(str(tmp_path / "ragged"))
        compare(str(tmp_path / "ragged"), times=2)

    def test_a_tensor_schema(self, tmp_path):
        table = pa.table({"k": range(2), "t": [np.arange(4.0).tobytes()] * 2})
        schema = {"t": (np.dtype("float64"), (2, 2))}
        compare(self.write(tmp_path, table), tensor_column_schema=schema)

    def test_none_in_the_folder(self, tmp_path):
        compare(str(tmp_path))

    def test_no_rows(self, tmp_path):
        empty = pa.table({"k": pa.array([], pa.int64())})
        root = self.write(tmp_path, empty)
        pq.ParquetWriter(tmp_path / "1.parquet", empty.schema).close()
        compare(root)

    def test_fields_of_the_same_name(self, tmp_path):
        compare(self.write(tmp_path, pa.table([[1], [2]], names=["a", "a"])))

    def test_a_missing_file(self, folder):
        files = [str(p) for p in sorted(Path(folder).rglob("*.parquet"))]
        missing = f"{folder}/missing.parquet"
        compare([*files, missing])
        compare([*files, missing], ignore_missing_paths=True)
        compare(files, skip_paths=files[1])

    def test_a_damaged_file(self, tmp_path):
        table = pa.table({"k": np.arange(5000), "x": np.random.default_rng(0).random(5000)})
        root = self.write(tmp_path, table, use_dictionary=False, compression="zstd")
        path = tmp_path / "0.parquet"
        content = bytearray(path.read_bytes())
        content[4:60] = b"\xff" * 56
        path.write_bytes(content)
        assert isinstance(compare(root)[0], str)

    def test_one_that_changes_between_two_reads(self, tmp_path):
        for value in range(3):
            root = self.write(tmp_path, pa.table({"k": [value] * 5}))
            _, blocks = compare(root)
            assert pa.concat_tables(blocks)["k"].to_pylist() == [value] * 5

    @pytest.mark.usefixtures("empty_cache")
    def test_counting(self, folder):
        assert zerrow_ray.data.read_parquet(folder).count() == 4000
        assert node_client().cache_list() == []
        assert zerrow_ray.data.read_parquet(folder).limit(7).count() == 7
        assert zerrow_ray.data.read_parquet(folder).filter(expr=col("k") < 9).count() == 9

    @pytest.mark.usefixtures("empty_cache")
    def test_a_part_of_the_local_file_system(self, folder):
        filesystem = pafs.SubTreeFileSystem(os.path.dirname(folder), pafs.LocalFileSystem())
        compare("in", filesystem=filesystem)
        assert node_client().cache_list()

    @pytest.mark.usefixtures("empty_cache")
    def test_a_file_system_of_which_nothing_is_known(self, folder):
        inner = fsspec.filesystem("file")
        filesystem = fsspec.filesystem("dir", path=os.path.dirname(folder), fs=inner)
        compare("in", filesystem=filesystem)
        assert node_client().cache_list() == []


@pytest.mark.usefixtures("v2", "empty_cache")
class TestCache:
    def test_what_is_read_again_is_decoded_once(self, folder):
        for _ in range(3):
            dataset = zerrow_ray.data.read_parquet(folder)
            assert dataset.map_batches(lambda b: b, batch_format="pyarrow").count() == 4000
        entries = node_client().cache_list()
        columns = {"k", "x", "s", "list", "struct.a", "struct.b.c"}
        assert {entry.column for entry in entries} == columns
        assert len(entries) == 4 * len(columns)
        assert all(entry.hits == 2 for entry in entries)
        stored = total()["bytes_stored"]
        zerrow_ray.data.read_parquet(folder).select_columns(["x"]).materialize()
        assert total()["bytes_stored"] == stored

    def test_columns_that_are_not_needed_are_not_decoded(self, folder):
        dataset = zerrow_ray.data.read_parquet(folder).filter(expr=col("k") < 200)
        dataset.select_columns(["x"]).materialize()
        entries = node_client().cache_list()
        assert {(entry.column, entry.parts) for entry in entries} == {("k", 1), ("x", 1)}

    def test_the_columns_of_other_readers(self, folder):
        path = first_of(folder)
        ray.get(ray.remote(lambda: zerrow_ray.read_parquet(path).num_rows).remote())
        before = {entry.object_id for entry in node_client().cache_list()}
        zerrow_ray.data.read_parquet(path).materialize()
        assert {entry.object_id for entry in node_client().cache_list()} == before

    def test_only_for_reads_that_ask_for_it(self, folder):
        ray.data.read_parquet(folder).materialize()
        zerrow_ray.data.read_parquet(folder)
        ray.data.read_parquet(folder).materialize()
        assert node_client().cache_list() == []

    def test_for_all_reads(self, folder):
        zerrow_ray.data.cache_reads()
        try:
            dataset = ray.data.read_parquet(folder)
        finally:
            zerrow_ray.data.cache_reads(False)
        dataset.materialize()
        assert node_client().cache_list()


def run(code, *arguments, **environment):
    """Run a driver of this cluster; returns what it logs."""
    address = ray.get_runtime_context().gcs_address
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), address, *arguments],
        check=True,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    ).stderr


@pytest.mark.usefixtures("empty_cache")
def test_with_no_change_of_code(folder):
    code = """
        import sys, ray
        ray.init(address=sys.argv[1], log_to_driver=False)
        assert len(ray.data.read_parquet(sys.argv[2]).take_all()) == 4000
    """
    hook = {"RAY_RUNTIME_ENV_HOOK": "zerrow_ray.runtime_env_hook"}
    run(code, folder, **hook)
    assert node_client().cache_list() == []
    run(code, folder, ZERROW_DATA_CACHE="1", **hook)
    assert node_client().cache_list()


@pytest.mark.usefixtures("empty_cache")
def test_a_ray_data_that_is_not_known(folder):
    code = """
        import sys, ray, zerrow_ray
        from ray.data._internal.datasource_v2.formats.parquet import parquet_file_reader
        zerrow_ray.init(address=sys.argv[1], log_to_driver=False)
        parquet_file_reader.ParquetFileReader._get_fragments_to_read = lambda self, more: None
        zerrow_ray.data.cache_reads()
        for _ in range(2):
            assert len(zerrow_ray.data.read_parquet(sys.argv[2]).take_all()) == 4000
    """
    log = run(code, folder)
    assert log.count("read without the cache") == 1
    assert "ParquetFileReader._get_fragments_to_read" in log
    assert node_client().cache_list() == []
