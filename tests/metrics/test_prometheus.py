"""The Grafana dashboard's queries, asked of a real Prometheus that scrapes a store."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.helpers.capabilities import needs_prometheus
from tests.helpers.prometheus import prometheus, queries, serving
from tests.helpers.small_store import NBYTES, make
from tests.helpers.stores import Store
from tests.helpers.waiting import wait_until
from zerrow_store.decache import read_parquet
from zerrow_store.errors import StoreFullError
from zerrow_store.metrics.dashboard import dashboard


@needs_prometheus
def test_every_query_has_values(small: Store, tmp_path: Path) -> None:
    client = small.connect()
    pq.write_table(pa.table({"x": range(1000)}), tmp_path / "file")
    with serving(small.name) as url, prometheus(url, tmp_path) as running:
        kept = [client.put(make(n)) for n in range(12)]  # more than it holds: some is spilled
        with pytest.raises(StoreFullError):
            client.put(pa.concat_tables([make(n) for n in range(9)]))
        read_parquet(tmp_path / "file", client=client)
        wait_until(running.is_ready)
        silent = {each for each in queries(dashboard("store")) if "label_values" not in each}
        assert len(silent) > 15
        while silent:  # a rate wants two scrapes
            silent = {each for each in silent if not running.query(each.replace("$instance", ".+"))}
        instance = url.removeprefix("http://").removesuffix("/metrics")
        assert running.label_values("zerrow_objects", "instance") == [instance]
        bytes_of_all = "sum(zerrow_stored_bytes + zerrow_spilled_bytes)"
        wait_until(lambda: running.query(bytes_of_all)[0] >= len(kept) * NBYTES)
        wait_until(lambda: running.query("sum(zerrow_objects)") == [client.stats().objects])
