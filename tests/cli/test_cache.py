"""`zerrow cache`, as its user runs it."""

import json

import pyarrow.parquet as pq

import zerrow_store
from tests.helpers.python import zerrow
from tests.helpers.readers import write
from zerrow_store.decache import read_parquet


def test_warm_list_and_drop(name, tmp_path):
    path = tmp_path / "f.parquet"
    table = write(path)
    done = zerrow("cache", "warm", str(path), "--columns", "c0,c2", "--name", name)
    assert done.returncode == 0, done.stderr
    assert "2 columns, 200,000 rows, 3.1 MiB" in done.stdout
    # The process that decoded is gone; what it decoded is not.
    client = zerrow_store.connect(name)
    view = read_parquet(path, columns=["c0", "c2"], client=client)
    assert view.equals(table.select(["c0", "c2"]))
    rows = json.loads(zerrow("cache", "--name", name, "--format", "json").stdout)
    again = json.loads(zerrow("cache", "--format", "json", "--name", name, "list").stdout)
    for row in rows + again:
        del row["idle_seconds"]
    assert rows == again
    assert [(row["path"], row["column"], row["row_groups"]) for row in rows] == [
        (str(path), "c0", 4),
        (str(path), "c2", 4),
    ]
    assert [(row["readers"], row["hits"]) for row in rows] == [(1, 1), (1, 1)]
    assert all(row["bytes"] > table.nbytes / 4 and row["seconds_saved"] >= 0 for row in rows)
    header, line, _ = zerrow("cache", "list", "--name", name).stdout.splitlines()
    assert header.split()[:3] == ["PATH", "COLUMN", "DECODED"]
    assert line.startswith(str(path))
    assert "Dropped 2" in zerrow("cache", "drop", str(path), "--name", name).stdout
    assert json.loads(zerrow("cache", "--name", name, "--format", "json").stdout) == []
    assert view.equals(table.select(["c0", "c2"]))
    client.close()


def test_drop_all_and_what_is_not_there(name, tmp_path):
    path = tmp_path / "f.parquet"
    pq.write_table(write(tmp_path / "g.parquet"), path)
    assert zerrow("cache", "warm", f"{tmp_path}/*.parquet", "--name", name).returncode == 0
    assert "Dropped 0" in zerrow("cache", "drop", "nothing", "--name", name).stdout
    assert "Dropped 8" in zerrow("cache", "drop", "all", "--name", name).stdout
    missing = zerrow("cache", "warm", str(tmp_path / "missing"), "--name", name)
    assert missing.returncode == 1
    assert "missing" in missing.stderr
