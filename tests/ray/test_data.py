"""Ray Data over the plugin."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import ray

from tests.ray.conftest import Moved

pytestmark = pytest.mark.usefixtures("cluster")


# Ray Data warns of a setting of its own.
@pytest.mark.filterwarnings("default::DeprecationWarning")
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
