"""`zerrow metrics`: what is scraped is what was done."""

import gc
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import fields
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.helpers.data import MIB, table_of
from tests.helpers.processes import kill
from tests.helpers.prometheus import Scraped, parse, scrape, serving, value
from tests.helpers.python import zerrow
from tests.helpers.small_store import NBYTES, make
from tests.helpers.stores import Store
from tests.helpers.waiting import wait_until
from zerrow_store.client.observe import observe
from zerrow_store.decache import read_parquet
from zerrow_store.errors import StoreFullError, StoreUnavailableError
from zerrow_store.metrics.figures import METRICS, has_begun
from zerrow_store.sandbox import SandboxStats

Endpoint = Callable[[str], Callable[[], Scraped]]


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    """Serves the metrics of a store, and scrapes them."""
    with ExitStack() as stack:

        def serve(name: str) -> Callable[[], Scraped]:
            url = stack.enter_context(serving(name))
            return lambda: scrape(url)

        yield serve


def test_what_is_stored_and_how_it_was_published(store: Store, endpoint: Endpoint) -> None:
    scraped = endpoint(store.name)
    client = store.connect()
    first = client.put(make(0))
    second = client.put(make(1))
    client.put(client.get(first).slice(10))
    sink = pa.BufferOutputStream(pa.system_memory_pool())
    with pa.ipc.new_stream(sink, make(2).schema) as writer:
        writer.write_table(make(2))
    client.put(pa.ipc.open_stream(sink.getvalue()).read_all())
    gc.collect()
    client.delete(second)

    now = scraped()
    assert value(now, "zerrow_up") == 1
    assert value(now, "zerrow_objects") == 3
    assert value(now, "zerrow_stored_bytes") == 2 * NBYTES
    assert value(now, "zerrow_budget_bytes") == 1 << 30
    assert value(now, "zerrow_puts_total") == 4
    assert value(now, "zerrow_published_bytes_total", way="shared") == 2 * NBYTES
    assert value(now, "zerrow_published_bytes_total", way="reshared") == NBYTES
    assert value(now, "zerrow_published_bytes_total", way="copied") == NBYTES
    assert value(now, "zerrow_clients") == 1  # the endpoint is none


def test_puts_that_wait_and_are_refused_and_what_is_evicted_for_them(
    small: Store, endpoint: Endpoint
) -> None:
    scraped = endpoint(small.name)
    client = small.connect()
    ids = [client.put(make(n)) for n in range(24)]
    with pytest.raises(StoreFullError):
        client.put(pa.concat_tables([make(n) for n in range(9)]))
    client.record_rollback("a result", NBYTES, 2.0, 3.0)

    def agrees() -> bool:  # the store may spill more between two questions
        spilled = [each for each in client.evictions() if each.way == "spill"]
        now = scraped()
        return value(now, "zerrow_evicted_bytes_total", way="spill") == sum(
            each.nbytes for each in spilled
        ) and value(now, "zerrow_evictions_total", way="spill") == len(spilled)

    wait_until(agrees)
    before = scraped()
    assert value(before, "zerrow_puts_total") == len(ids)
    assert value(before, "zerrow_puts_refused_total", reason="StoreFullError") == 1
    assert 0 < value(before, "zerrow_puts_waited_total") <= len(ids)
    assert value(before, "zerrow_spilled_bytes") >= 16 * NBYTES
    assert value(before, "zerrow_evictions_seconds_total", way="spill") > 0
    assert value(before, "zerrow_evictions_expected_seconds_total", way="spill") > 0
    assert value(before, "zerrow_evicted_bytes_total", way="rollback") == NBYTES
    assert value(before, "zerrow_evictions_expected_seconds_total", way="rollback") == 2.0
    assert value(before, "zerrow_evictions_seconds_total", way="rollback") == 3.0
    for n, object_id in enumerate(ids):
        assert client.get(object_id).equals(make(n))
    took = value(before, "zerrow_evictions_seconds_total", way="spill")
    wait_until(lambda: value(scraped(), "zerrow_evictions_seconds_total", way="spill") > took)


def test_sums_of_what_clients_claim_to_have_rolled_back_break_nothing(store: Store) -> None:
    client = store.connect()
    for _ in range(8):
        client.record_rollback("a result", 1 << 62, 1e9, 1e9)
    assert client.stats().evicted["rollback"].bytes == 8 * (1 << 62)


def test_the_cache_of_decoded_columns(store: Store, endpoint: Endpoint, tmp_path: Path) -> None:
    scraped = endpoint(store.name)
    path = tmp_path / "file"
    pq.write_table(pa.table({f"c{n}": range(60_000) for n in range(3)}), path, row_group_size=20000)
    metadata = pq.read_metadata(path)
    chunks = metadata.num_row_groups * metadata.num_columns
    assert chunks == 9
    client = store.connect()
    kept = read_parquet(path, client=client)
    now = scraped()
    assert value(now, "zerrow_cache_misses_total") == chunks
    assert value(now, "zerrow_cache_hits_total") == 0
    assert value(now, "zerrow_cache_entries") == len(client.cache_list())
    decoding = sum(entry.seconds for entry in client.cache_list())
    assert value(now, "zerrow_cache_decoding_seconds_total") == pytest.approx(decoding)
    assert read_parquet(path, client=client).equals(kept)
    now = scraped()
    assert value(now, "zerrow_cache_misses_total") == chunks
    assert value(now, "zerrow_cache_hits_total") == chunks
    assert value(now, "zerrow_cache_saved_seconds_total") == pytest.approx(decoding)
    read_parquet(path, client=client, columns=["c0"])
    assert value(scraped(), "zerrow_cache_hits_total") == chunks + metadata.num_row_groups


def test_what_goes_between_machines(there, here, endpoint: Endpoint) -> None:
    at_home, elsewhere = endpoint(here.name), endpoint(there.name)
    wanted = there.publish(table_of(70 * MIB))
    arrived = here.fetch(there.serve(), wanted)
    assert arrived.nbytes == 70 * MIB
    wait_until(lambda: value(at_home(), "zerrow_received_objects_total") == 1)
    assert value(at_home(), "zerrow_received_bytes_total") == 70 * MIB
    assert value(at_home(), "zerrow_puts_total") == 0  # nobody here has published anything
    wait_until(lambda: value(elsewhere(), "zerrow_sent_bytes_total") == 70 * MIB)


def test_the_endpoint_outlives_the_store(store: Store, endpoint: Endpoint) -> None:
    scraped = endpoint(store.name)
    client = store.connect()
    client.put(make(0))
    wait_until(store.is_complete)
    kill(store.server_pid())
    wait_until(lambda: value(scraped(), "zerrow_up") == 1)
    assert value(scraped(), "zerrow_stored_bytes") == NBYTES
    assert value(scraped(), "zerrow_published_bytes_total", way="shared") == NBYTES
    client.shutdown()
    wait_until(lambda: value(scraped(), "zerrow_up") == 0)
    assert len(scraped()) == 1


def test_the_command_prints_them(store: Store) -> None:
    done = zerrow("metrics", "--name", store.name)
    assert value(parse(done.stdout), "zerrow_objects") == 0
    assert {name for name, _ in parse(done.stdout)} == {
        "zerrow_up",
        *(each.name for each in METRICS),
    }


def test_the_command_says_what_it_lacks(tmp_path: Path) -> None:
    (tmp_path / "prometheus_client.py").write_text("raise ImportError('no prometheus_client')")
    done = zerrow("metrics", PYTHONPATH=str(tmp_path))
    assert done.returncode == 1
    assert done.stderr == (
        "zerrow: no prometheus_client: install prometheus-client, or zerrow-store[metrics]\n"
    )


def test_names_are_as_prometheus_wants_them() -> None:
    names = [metric.name for metric in METRICS]
    assert len(set(names)) == len(names)
    for metric in METRICS:
        assert re.fullmatch(r"zerrow_[a-z_]+", metric.name)
        assert metric.name.endswith("_total") == (metric.kind == "counter")


def test_the_docs_have_every_metric(store: Store) -> None:
    stats = observe(store.name)
    docs = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text()
    rows = {
        line.split("|")[1].strip(): line.split("|")[2:5]
        for line in docs.splitlines()
        if "|" in line
    }
    for metric in METRICS:
        kind, label, meaning = rows[f"`{metric.name}`"]
        assert (kind.strip(), meaning.strip()) == (metric.kind, metric.meaning)
        values = ", ".join(f"`{each}`" for each in metric.read(stats))
        assert label.strip().removesuffix(", ...") == (
            f"`{metric.label}`: {values}" if metric.label else ""
        )


def test_every_figure_of_sandboxes_has_a_metric(store: Store) -> None:
    """But for `calls`, which are those that were warm, waited or cold."""
    names = [each.name for each in fields(SandboxStats) if each.name != "calls"]
    store.connect().count_sandbox({name: 1000 + n for n, name in enumerate(names)})
    wait_until(lambda: getattr(observe(store.name).sandbox, names[-1]) > 0)
    stats = observe(store.name)
    values = [number for metric in METRICS for number in metric.read(stats).values()]
    assert {number for number in values if 1000 <= number < 2000} == {
        1000 + n for n in range(len(names))
    }


def test_a_store_has_begun_when_anything_was_counted(store: Store) -> None:
    assert not has_begun(observe(store.name))
    store.connect().put(pa.table({"x": [1]}))
    assert has_begun(observe(store.name))


def test_an_observer_of_another_version_is_told(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zerrow_store.protocol.framing.PROTOCOL_VERSION", 1)
    with pytest.raises(StoreUnavailableError, match="speaks version 1"):
        observe(store.name)
    assert store.server_pid()
