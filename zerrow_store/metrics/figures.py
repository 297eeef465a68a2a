"""The metrics of a store, read from its `StoreStats`.

`METRICS` is the only list of them. The plain endpoint (`exporter`), Ray's endpoint
(`zerrow_ray.metrics`) and the dashboard use it; docs/metrics.md has the same table.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from zerrow_store.protocol.reports import StoreStats

Values = Mapping[str, float]
"""Values by the label's value; of a metric without a label, by the empty text."""


@dataclass(frozen=True)
class Metric:
    """A metric. name: with its unit, by Prometheus's conventions. label: its only label, if it has
    one. read: returns the values, given a store's figures.
    """

    name: str
    kind: Literal["gauge", "counter"]
    meaning: str
    read: Callable[[StoreStats], Values]
    label: str = ""

    def labels(self, value: str) -> dict[str, str]:
        """Return the labels of one of its values."""
        return {self.label: value} if self.label else {}


def has_begun(stats: StoreStats) -> bool:
    """Whether any counter is above zero."""
    counters = (metric for metric in METRICS if metric.kind == "counter")
    return any(any(metric.read(stats).values()) for metric in counters)


def _gauge(name: str, meaning: str, read: Callable[[StoreStats], float]) -> Metric:
    return Metric(name, "gauge", meaning, lambda stats: {"": read(stats)})


def _counter(name: str, meaning: str, read: Callable[[StoreStats], float]) -> Metric:
    return Metric(name, "counter", meaning, lambda stats: {"": read(stats)})


def _published(stats: StoreStats) -> Values:
    return {
        "shared": stats.bytes_shared,
        "reshared": stats.bytes_reshared,
        "copied": stats.bytes_copied,
    }


def _evicted(name: str, meaning: str, figure: str) -> Metric:
    def read(stats: StoreStats) -> Values:
        return {way: getattr(totals, figure) for way, totals in stats.evicted.items()}

    return Metric(name, "counter", meaning, read, "way")


def _sandbox(name: str, meaning: str, figures: Mapping[str, str], label: str = "") -> Metric:
    """figures: those of `SandboxStats`, by the label's value."""

    def read(stats: StoreStats) -> Values:
        return {value: getattr(stats.sandbox, figure) for value, figure in figures.items()}

    return Metric(name, "counter", meaning, read, label)


METRICS = (
    _gauge("zerrow_budget_bytes", "Memory budget of the store", lambda s: s.budget),
    _gauge(
        "zerrow_stored_bytes",
        "Bytes in memory that objects refer to, each counted once",
        lambda s: s.bytes_stored,
    ),
    _gauge(
        "zerrow_spilled_bytes", "Bytes on disk that objects refer to", lambda s: s.bytes_spilled
    ),
    _gauge("zerrow_objects", "Objects in the store", lambda s: s.objects),
    _gauge(
        "zerrow_segments",
        "Segments in the object table: arenas, sealed segments, spill files",
        lambda s: s.segments,
    ),
    _gauge("zerrow_clients", "Connected client processes", lambda s: s.clients),
    _gauge(
        "zerrow_supervisors",
        "Supervisors, which restart the server; normally 2",
        lambda s: s.supervisors,
    ),
    Metric(
        "zerrow_published_bytes_total",
        "counter",
        "Published bytes: left in place, referred to in another segment, or copied",
        _published,
        "way",
    ),
    _counter("zerrow_puts_total", "Publications taken", lambda s: s.puts),
    _counter(
        "zerrow_puts_waited_total",
        "Publications that waited for room, whether taken or refused in the end",
        lambda s: s.puts_waited,
    ),
    Metric(
        "zerrow_puts_refused_total",
        "counter",
        "Publications refused, by error",
        lambda s: {"StoreFullError": 0, **s.puts_refused},
        "reason",
    ),
    _evicted("zerrow_evictions_total", "Evictions; a spill is a batch of objects", "count"),
    _evicted("zerrow_evicted_bytes_total", "Bytes evicted", "bytes"),
    _evicted(
        "zerrow_evictions_expected_seconds_total",
        "Expected cost of the evictions, with one return of the bytes",
        "expected_seconds",
    ),
    _evicted("zerrow_evictions_seconds_total", "Measured cost of the evictions so far", "seconds"),
    _gauge(
        "zerrow_cache_entries",
        "Objects in the cache of decoded columns",
        lambda s: s.cache.entries,
    ),
    _counter(
        "zerrow_cache_hits_total",
        "Column chunks found in the cache",
        lambda s: s.cache.hits,
    ),
    _counter(
        "zerrow_cache_misses_total",
        "Column chunks decoded by their reader",
        lambda s: s.cache.misses,
    ),
    _counter(
        "zerrow_cache_decoding_seconds_total",
        "Decoding time of the columns that entered the cache",
        lambda s: s.cache.decoding_seconds,
    ),
    _counter(
        "zerrow_cache_saved_seconds_total",
        "Decoding time of the column chunks found in the cache",
        lambda s: s.cache.saved_seconds,
    ),
    _counter(
        "zerrow_received_objects_total",
        "Objects received from other machines",
        lambda s: s.transfers.received_objects,
    ),
    _counter(
        "zerrow_received_bytes_total",
        "Bytes received from other machines",
        lambda s: s.transfers.received_bytes,
    ),
    _counter(
        "zerrow_sent_bytes_total",
        "Bytes sent to other machines",
        lambda s: s.transfers.sent_bytes,
    ),
    _sandbox(
        "zerrow_sandbox_calls_total",
        "Sandboxed calls: the sandbox was ready, almost ready, or started for the call",
        {"warm": "warm", "waited": "waited", "cold": "cold"},
        "sandbox",
    ),
    _sandbox(
        "zerrow_sandbox_failed_calls_total",
        "Sandboxed calls that ended with an error, or at a limit of time or memory",
        {"error": "failed", "timeout": "timeouts", "memory": "out_of_memory"},
        "reason",
    ),
    _sandbox("zerrow_sandboxes_started_total", "Sandboxes started", {"": "started"}),
    _sandbox(
        "zerrow_sandboxes_broken_total",
        "Sandboxes discarded as unusable",
        {"": "broken"},
    ),
    _sandbox(
        "zerrow_sandbox_bytes_total",
        "Bytes of inputs shared, of inputs copied, and of outputs returned",
        {"shared": "bytes_shared", "copied": "bytes_copied", "returned": "bytes_returned"},
        "what",
    ),
)
