"""A store's metrics at Ray's own endpoint of the node, which has the metrics of Ray itself.

`ray.util.metrics` is for Ray's workers, and a store's processes are none. But what serves that
endpoint, Ray's agent of the node, takes metrics from any process that knows the cluster's token:
by OpenTelemetry's protocol, from Ray's own processes, too. The transfer agent (`agent`) reports to
it, as often as those do.

All are reported as gauges, also what counts. Ray's agent adds up what it is told of a counter, so
a report that is lost, or an agent that is started again, would be a wrong number for good. A gauge
is what the store says; one that nobody reports any more is gone after two intervals.
"""

import logging
import time
from collections.abc import Callable
from typing import Any

from zerrow_ray import ray_compat
from zerrow_store.client.observe import observe
from zerrow_store.errors import StoreUnavailableError
from zerrow_store.metrics.figures import METRICS, has_begun
from zerrow_store.protocol.reports import StoreStats

logger = logging.getLogger("zerrow_ray")

Export = Callable[[Any], None]


def report(store: str, address: Callable[[], str | None], labels: dict[str, str]) -> None:
    """Report the metrics of a store to Ray's agent of this node, for ever.

    address: returns where that one takes them, None if it does not. labels: of all metrics. Nothing
    is done but to ask the store until it has been of use. Returns if Ray has no endpoint on this
    node, as without what `ray[default]` installs.
    """
    interval = ray_compat.metrics_interval()
    export: Export | None = None
    failed = False
    while True:
        try:
            stats = observe(store)
            if export is None and has_begun(stats):
                if (taken_at := address()) is None:
                    return
                export = ray_compat.metrics_exporter(taken_at)
            if export is not None:
                export(request(stats, labels))
            failed = False
        except StoreUnavailableError:
            pass  # it is being started again
        except Exception as error:  # whatever Ray and gRPC raise while the other end is away
            if not failed:
                logger.warning("the store's metrics are not reported to Ray: %s", error)
            failed = True
        time.sleep(interval)


def request(stats: StoreStats, labels: dict[str, str]) -> Any:
    """Return a store's metrics as OpenTelemetry's protocol has them. Raises ImportError."""
    from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
        ExportMetricsServiceRequest,
    )

    made = ExportMetricsServiceRequest()
    metrics = made.resource_metrics.add().scope_metrics.add().metrics
    for metric in METRICS:
        points = metrics.add(name=metric.name, description=metric.meaning).gauge.data_points
        for value, number in metric.read(stats).items():
            point = points.add(as_double=number)
            for label, text in (labels | metric.labels(value)).items():
                point.attributes.add(key=label).value.string_value = text
    return made
