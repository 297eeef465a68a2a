"""A store's metrics in Prometheus's text format, served over HTTP by a process of its own.

The store's figures are asked for at each scrape. The store has no thread and no port for that; what
goes wrong here is nothing to it.
"""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, generate_latest, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from zerrow_store.client.observe import observe
from zerrow_store.errors import StoreUnavailableError
from zerrow_store.metrics.figures import METRICS, Metric
from zerrow_store.protocol.reports import StoreStats

Family = CounterMetricFamily | GaugeMetricFamily


class Collector:
    """Collects the metrics of the store `name`, as `prometheus_client` has it."""

    def __init__(self, name: str) -> None:
        self._name = name

    def describe(self) -> list[Family]:
        """Return nothing: what there is, is known when there is a store."""
        return []

    def collect(self) -> Iterator[Family]:
        """Ask the store; where there is none, `zerrow_up` is all that is said."""
        try:
            stats = observe(self._name)
        except StoreUnavailableError:
            yield _up(0)
            return
        yield _up(1)
        for metric in METRICS:
            yield _family(metric, stats)


def _up(value: int) -> Family:
    return GaugeMetricFamily("zerrow_up", "Whether the store answers", value=value)


def _family(metric: Metric, stats: StoreStats) -> Family:
    kind = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
    labels = [metric.label] if metric.label else []
    family = kind(metric.name, metric.meaning, labels=labels)
    for value, number in metric.read(stats).items():
        family.add_metric(list(metric.labels(value).values()), number)
    return family


def registry(name: str) -> CollectorRegistry:
    """Return what `prometheus_client` exports of the store `name`."""
    made = CollectorRegistry()
    made.register(Collector(name))
    return made


def text(name: str) -> str:
    """Return the metrics of the store `name` now, in the text format."""
    return generate_latest(registry(name)).decode()


def serve(name: str, host: str, port: int) -> tuple[str, int]:
    """Serve the metrics of the store `name` from a thread, for as long as this process runs.

    port: 0 for any. Returns where it serves. Raises OSError if that cannot be had.
    """
    server, _ = start_http_server(port, addr=host, registry=registry(name))
    return host, server.server_port
