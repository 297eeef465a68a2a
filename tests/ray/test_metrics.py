"""A store's metrics at Ray's own endpoint of its node, as a Prometheus there scrapes them."""

import importlib.util
import threading
from collections.abc import Iterator
from concurrent import futures
from typing import Any

import pyarrow as pa
import pytest
import ray
from ray.cluster_utils import Cluster

import zerrow_ray
from tests.helpers.processes import kill, processes
from tests.helpers.prometheus import Scraped, names_in, queries, scrape, value
from tests.helpers.rays import RAY_OPTIONS, ROWS, make, store_pids
from zerrow_ray import metrics
from zerrow_ray.config import store_name
from zerrow_store.client.observe import observe
from zerrow_store.metrics.dashboard import dashboard
from zerrow_store.metrics.figures import METRICS

needs_rays_endpoint = pytest.mark.skipif(
    importlib.util.find_spec("opencensus") is None,
    reason="Ray serves no metrics without what ray[default] installs: make test-metrics",
)
NBYTES = 8 * ROWS
BUDGET = 1 << 30


@ray.remote
def made(n: int) -> pa.Table:
    return make(n)


def endpoint(node: dict[str, Any]) -> Scraped:
    return scrape(f"http://127.0.0.1:{node['MetricsExportPort']}/metrics")


def wait_for(node: dict[str, Any], name: str, expected: float, **labels: str) -> Scraped:
    """Scrape until a metric has this value: Ray's processes report every ten seconds."""
    latest: float | None = None
    for _ in range(600):
        scraped = endpoint(node)
        try:
            latest = value(scraped, name, **labels)
        except ValueError:
            latest = None
        if latest == expected:
            return scraped
        threading.Event().wait(0.2)
    raise AssertionError(f"waited in vain until {name} is {expected}: it is {latest}")


@pytest.fixture
def node(request: pytest.FixtureRequest) -> Iterator[dict[str, Any]]:
    """A Ray of one node, with a store that has done nothing yet; its budget is the parameter."""
    zerrow_ray.init(**RAY_OPTIONS, memory=getattr(request, "param", BUDGET))
    yield ray.nodes()[0]
    ray.shutdown()


@needs_rays_endpoint
def test_the_nodes_endpoint_has_the_stores_figures(node: dict[str, Any]) -> None:
    kept = [ray.put(make()), made.remote(1)]
    assert ray.get(kept[1]).equals(make(1))
    scraped = wait_for(node, "ray_zerrow_stored_bytes", 2 * NBYTES)
    assert value(scraped, "ray_zerrow_puts_total") == 2
    assert value(scraped, "ray_zerrow_published_bytes_total", way="shared") == 2 * NBYTES
    assert value(scraped, "ray_zerrow_budget_bytes") == BUDGET
    session = {
        dict(labels).get("SessionName")
        for (name, labels) in scraped
        if name in ("ray_zerrow_objects", "ray_node_cpu_count")
    }
    assert len(session) == 1
    # As of any gauge of Ray's: it stays for as long as it is reported, and follows what happens.
    del kept
    wait_for(node, "ray_zerrow_stored_bytes", 0)


@needs_rays_endpoint
@pytest.mark.parametrize("node", [64 << 20], indirect=True)
def test_what_takes_rays_own_path_is_counted_by_reason(node: dict[str, Any]) -> None:
    too_large = pa.concat_tables([make(n) for n in range(9)])
    assert ray.get(ray.put(too_large)).equals(too_large)
    two = [too_large, too_large.slice(0)]
    assert ray.get(ray.put(two)) == two
    scraped = wait_for(node, "ray_zerrow_fallbacks_total", 3, reason="StoreFullError")
    exported = {name for name, _ in scraped}
    assert {f"ray_{metric.name}" for metric in METRICS} <= exported
    assert set().union(*(names_in(query) for query in queries(dashboard("ray")))) <= exported


@needs_rays_endpoint
def test_figures_are_the_stores_whoever_is_killed(node: dict[str, Any]) -> None:
    """An agent that starts again reports what the store says, and not that once more."""
    kept = ray.put(make())
    wait_for(node, "ray_zerrow_published_bytes_total", NBYTES, way="shared")
    (agent,) = processes("zerrow_ray.agent", store_name(node["NodeID"]))
    kill(agent)
    (server,) = store_pids()
    kill(server)
    more = ray.put(make(1))
    scraped = wait_for(node, "ray_zerrow_published_bytes_total", 2 * NBYTES, way="shared")
    assert value(scraped, "ray_zerrow_stored_bytes") == 2 * NBYTES
    del kept, more


@needs_rays_endpoint
def test_every_node_has_its_own() -> None:
    head = {"num_cpus": 1, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        cluster.add_node(num_cpus=1, resources={"other": 1})
        zerrow_ray.init(address=cluster.address, log_to_driver=False, logging_level="error")
        (there,) = (each for each in ray.nodes() if "other" in each["Resources"])
        (here,) = (each for each in ray.nodes() if "other" not in each["Resources"])
        kept = made.options(resources={"other": 1}).remote(0)
        ray.wait([kept])
        # Before the nodes know each other Ray copies results.
        while observe(store_name(there["NodeID"])).objects == 0:
            kept = made.options(resources={"other": 1}).remote(0)
            ray.wait([kept])
        fetched = ray.get(kept)
        assert fetched.equals(make())
        wait_for(here, "ray_zerrow_received_bytes_total", fetched.nbytes)
        wait_for(there, "ray_zerrow_sent_bytes_total", fetched.nbytes)
        wait_for(there, "ray_zerrow_objects", 1)
    finally:
        ray.shutdown()
        cluster.shutdown()


def test_nothing_is_reported_until_a_table_was(store: Any, monkeypatch: Any) -> None:
    """A store of a job without tables is asked for its figures, and nobody for an address."""
    asked = futures.Future[None]()
    looked = threading.Semaphore(0)

    def observed(name: str) -> Any:
        looked.release()
        return observe(name)

    def address() -> None:
        asked.set_result(None)

    monkeypatch.setattr(metrics, "observe", observed)
    monkeypatch.setattr(metrics.ray_compat, "metrics_interval", lambda: 0.01)
    thread = threading.Thread(target=metrics.report, args=[store.name, address, {}])
    thread.start()
    for _ in range(20):
        looked.acquire()
    assert not asked.done()
    store.connect().put(make())
    asked.result()
    thread.join()  # there is no endpoint, and there will be none
