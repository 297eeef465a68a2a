"""The store's figures."""

import os
import time
from collections import Counter
from dataclasses import asdict

from zerrow_store.protocol import messages as m
from zerrow_store.protocol.fields import MAX_COUNT
from zerrow_store.protocol.reports import (
    CacheStats,
    EvictionTotals,
    Sample,
    SandboxStats,
    StoreStats,
    TransferStats,
)
from zerrow_store.server.connection import Call
from zerrow_store.server.connections import Connections
from zerrow_store.server.core import Core
from zerrow_store.server.history import History
from zerrow_store.server.replication import Replication


class Statistics:
    """What is counted while the server runs, and the report of all figures.

    eviction: the policy's name. log: where the server logs.
    """

    def __init__(
        self,
        core: Core,
        connections: Connections,
        replication: Replication,
        *,
        eviction: str,
        log: str,
    ) -> None:
        self._core = core
        self._connections = connections
        self._replication = replication
        self._eviction = eviction
        self.log = log
        self._history = History()
        self._puts = 0
        self._puts_refused: Counter[str] = Counter()
        self._counts = {"sandbox": asdict(SandboxStats()), "transfers": asdict(TransferStats())}

    def answered(self, call: Call) -> None:
        """Count a request that was carried out."""
        self._puts += _is_put(call)

    def refused(self, call: Call, error: Exception) -> None:
        """Count a request that was refused."""
        if _is_put(call):
            self._puts_refused[type(error).__name__] += 1

    def count(self, call: Call, request: m.Count) -> None:
        """Add to the figures that processes count themselves; what no report has is left out."""
        counts = self._counts[request.group]
        for name in counts.keys() & request.increments.keys():
            counts[name] = min(counts[name] + request.increments[name], MAX_COUNT)

    def tick(self, now: float, resident: int) -> None:
        """Take a sample, if it is time for one. resident: the bytes that are in memory."""
        self._history.tick(now, lambda: self._sample(resident))

    def history(self, call: Call, request: m.History) -> list[Sample]:
        """Return the figures over time."""
        return [*self._history.rows(), self._sample(self._core.state.resident())]

    def _bytes(self) -> dict[str, int]:
        table = self._core.state.table
        return {
            "bytes_stored": table.bytes_stored,
            "bytes_spilled": table.bytes_spilled,
            "bytes_shared": table.counters.shared,
            "bytes_reshared": table.counters.reshared,
            "bytes_copied": table.counters.copied,
        }

    def _sample(self, resident: int) -> Sample:
        cache = self._core.columns.counts
        return Sample(
            when=time.time(),
            resident=resident,
            **self._bytes(),
            cache_hits=cache["hits"],
            cache_misses=cache["misses"],
        )

    def report(self, call: Call, request: m.Stats) -> StoreStats:
        """Return all figures."""
        table, spiller = self._core.state.table, self._core.spiller
        cached = self._core.columns.counts
        return StoreStats(
            objects=sum(not (e.deleted or e.is_elsewhere) for e in table.objects.values()),
            **self._bytes(),
            spill_bandwidth=int(spiller.write_bandwidth),
            spill_processor_bandwidth=int(spiller.processor_bandwidth),
            read_back_bandwidth=int(spiller.read_bandwidth),
            budget=self._core.state.budget,
            eviction=self._eviction,
            segments=len(table.segments),
            clients=sum(1 for _ in self._connections.greeted("client")),
            pid=os.getpid(),
            supervisors=len(self._replication),
            log=self.log,
            puts=self._puts,
            puts_waited=self._core.put_queue.waited,
            puts_refused=dict(self._puts_refused),
            evicted={
                way: EvictionTotals(
                    int(each["count"]), each["bytes"], each["expected_seconds"], each["seconds"]
                )
                for way, each in self._core.records.totals.items()
            },
            cache=CacheStats(
                len(table.cache.entries),
                int(cached["hits"]),
                int(cached["misses"]),
                cached["decoding_seconds"],
                cached["saved_seconds"],
            ),
            transfers=TransferStats(**self._counts["transfers"]),
            sandbox=SandboxStats(**self._counts["sandbox"]),
        )


def _is_put(call: Call) -> bool:
    """Whether a process publishes; not the agent, for what other machines have."""
    return call.kind == "put" and call.connection.role == "client"
