"""TPC-H's tables, as its generator writes them: what is read is what pyarrow reads."""

import datetime
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from tests.helpers.parquet import assert_reads_like_pyarrow, assert_same
from zerrow_store.decache import read_parquet

TABLES = ["customer", "lineitem", "nation", "orders", "part", "partsupp", "region", "supplier"]
GENERATOR = Path(sys.executable).parent / "tpchgen-cli"

pytestmark = pytest.mark.skipif(not GENERATOR.exists(), reason="needs tpchgen-cli")


@pytest.fixture(scope="module")
def tpch(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tpch")
    command = [GENERATOR, "parquet", "-s", "0.01", f"--output-dir={folder}", "--quiet"]
    subprocess.run(command, check=True)
    return folder


@pytest.mark.parametrize("table", TABLES)
def test_whole_tables(client, tpch, table):
    assert_reads_like_pyarrow(client, tpch / f"{table}.parquet")


@pytest.mark.parametrize("table", TABLES)
def test_tables_with_small_row_groups_and_shared_strings(client, tpch, tmp_path, table):
    expected = pq.read_table(tpch / f"{table}.parquet")
    path = tmp_path / "small.parquet"
    pq.write_table(expected, path, row_group_size=max(1, expected.num_rows // 9))
    assert_reads_like_pyarrow(client, path)
    # Arrow does not cast a dictionary to string views.
    plain = pa.schema(
        f.with_type(pa.string()) if f.type == pa.string_view() else f for f in expected.schema
    )
    for _ in range(2):
        shared = read_parquet(path, share_strings=True, client=client)
        assert shared.cast(plain).equals(expected.cast(plain))


@pytest.mark.parametrize(
    ("columns", "filters"),
    [
        (["l_extendedprice", "l_discount"], ds.field("l_discount") > Decimal("0.05")),
        (["l_orderkey"], ds.field("l_shipdate") < datetime.date(1994, 1, 1)),
        (None, (ds.field("l_orderkey") < 1000) & (ds.field("l_quantity") == Decimal(17))),
        (["l_linenumber", "l_tax"], ds.field("l_orderkey").isin([1, 2, 3, 59999])),
        (["l_tax"], ds.field("l_orderkey") < 0),
    ],
    ids=str,
)
def test_lineitem_filtered(client, tpch, tmp_path, columns, filters):
    # Arrow cannot filter the string views that the generator's schema asks for.
    table = pq.read_table(tpch / "lineitem.parquet")
    strings = [f.with_type(pa.string()) if f.type == pa.string_view() else f for f in table.schema]
    path = tmp_path / "lineitem.parquet"
    pq.write_table(table.cast(pa.schema(strings)), path, row_group_size=5000)
    assert_reads_like_pyarrow(client, path, columns=columns, filters=filters)
    expected = ds.dataset(path).to_table(columns=columns, filter=filters)
    assert_same(read_parquet(path, columns=columns, filters=filters, client=client), expected)
