"""A read that is interrupted, at any step: others do not wait for what it has claimed."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tests.helpers.interrupts import steps
from zerrow_store.client.client import Client
from zerrow_store.decache import read_parquet


def test_no_claim_is_left(client: Client, tmp_path: Path) -> None:
    table = pa.table({"x": range(1000), "y": [str(n) for n in range(1000)]})
    path = tmp_path / "t.parquet"
    pq.write_table(table, path)
    with ThreadPoolExecutor(1) as others:
        for interrupt in steps("client", "decache/fetch.py", "decache/parquet.py"):
            client.cache_drop()
            with interrupt:
                read_parquet(path, client=client)
            assert others.submit(read_parquet, path, client=client).result(30).equals(table)
