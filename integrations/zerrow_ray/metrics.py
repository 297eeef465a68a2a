"""The store's metrics at the node's Prometheus endpoint of Ray, beside Ray's own metrics.

`ray.util.metrics` is for Ray workers, which the store's processes are not. But the process behind
that endpoint, Ray's agent of the node, accepts metrics by OpenTelemetry's protocol from any process
that knows the cluster's token; Ray's own processes report to it in the same way. The transfer agent
(`agent`) reports the store's metrics there, as often as Ray's processes report theirs.

All are reported as gauges, even the counters. Ray's agent sums up the increments of a counter, so a
lost report or a restarted agent would make it wrong for good. A gauge has the value that the store
reported last, and disappears two intervals after the last report.
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
    """Keep reporting the metrics of a store to Ray's agent of this node.

    address: returns where Ray's agent accepts metrics, None if it does not. labels: of all metrics.
    Nothing is reported until the store has been of use. Returns only if Ray has no endpoint on this
    node, as is the case without `ray[default]`.
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
            pass  # the store is being restarted
        except Exception as error:  # whatever Ray and gRPC raise while Ray's agent is away
            if not failed:
                logger.warning("the store's metrics are not reported to Ray: %s", error)
            failed = True
        time.sleep(interval)


def request(stats: StoreStats, labels: dict[str, str]) -> Any:
    """Return a store's metrics as a message of OpenTelemetry's protocol. Raises ImportError."""
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
