"""A Ray Data job: read Parquet, add columns, drop rows, sort, write Parquet."""

import shutil
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from benchmarks.report.jobs import answers
from benchmarks.tpch import DATA

FILES = 8


def _rows(full: bool) -> int:
    return 1_000_000 if full else 50_000


def _folder(full: bool) -> Path:
    return DATA / f"etl-{_rows(full)}"


def prepare(full: bool) -> None:
    """Make the files, and the answer."""
    folder = _folder(full)
    if not folder.exists():
        unfinished = folder.with_suffix(".partial")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        random, rows = np.random.default_rng(0), _rows(full)
        for number in range(FILES):
            columns = {f"x{i}": random.random(rows) for i in range(5)}
            columns["key"] = random.integers(0, 100, rows)
            pq.write_table(pa.table(columns), unfinished / f"{number}.parquet")
        unfinished.rename(folder)
    _wanted(full)


def run(side: str, full: bool) -> None:
    """Run the job, and look at what it has written."""
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.default_hash_shuffle_parallelism = FILES  # not 200 for so few rows
    with tempfile.TemporaryDirectory(dir="/var/tmp") as out:
        data = ray.data.read_parquet(
            [str(path) for path in sorted(_folder(full).glob("*.parquet"))]
        )
        data = data.map_batches(add, batch_format="pyarrow")
        data = data.map_batches(drop, batch_format="pyarrow")
        data.sort("x0").write_parquet(out)
        written = ds.dataset(out, format="parquet").to_table(columns=["key", "sum"])
    answers.check("etl", _summary(written), _wanted(full)["etl"])


def add(table: pa.Table) -> pa.Table:
    return table.append_column("sum", pc.add(table["x0"], table["x1"]))


def drop(table: pa.Table) -> pa.Table:
    return table.filter(pc.field("x2") < 0.8)


def _summary(table: pa.Table) -> answers.Rows:
    groups = table.group_by("key").aggregate([("sum", "sum"), ("sum", "count")])
    columns = (groups[name].to_pylist() for name in ("key", "sum_sum", "sum_count"))
    return [list(row) for row in zip(*columns, strict=True)]


def _wanted(full: bool) -> dict[str, answers.Rows]:
    def by_pyarrow() -> dict[str, answers.Rows]:
        return {"etl": _summary(drop(add(ds.dataset(_folder(full)).to_table())))}

    return answers.known(f"etl-{_rows(full)}", by_pyarrow)
