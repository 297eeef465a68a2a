"""Figures of the nodes' stores."""

from dataclasses import asdict, dataclass, fields
from typing import Any

import ray

from zerrow_ray import transfers
from zerrow_store.protocol.reports import SandboxStats, StoreStats


@dataclass(frozen=True)
class StoreTotals:
    """Sums, over the stores of all nodes, of the figures of the same names in `StoreStats`.

    objects: how many objects are in the stores now. bytes_stored, bytes_spilled: the bytes in
    memory and on disk now, each counted once on each node. bytes_shared, bytes_reshared,
    bytes_copied: running counts of the bytes that were published where they lay, referred to in
    another process's segment, and copied. sandbox: of all workers, without the last call of a
    worker that was killed.
    """

    objects: int
    bytes_stored: int
    bytes_spilled: int
    bytes_shared: int
    bytes_reshared: int
    bytes_copied: int
    sandbox: SandboxStats

    def as_dict(self) -> dict[str, Any]:
        """Return the figures by name."""
        return asdict(self)


@dataclass(frozen=True)
class ClusterStats:
    """The figures of a cluster's stores.

    nodes: by the Ray node's id in hexadecimal. A node is missing if its store was never needed, or
    does not answer.
    """

    total: StoreTotals
    nodes: dict[str, StoreStats]

    def as_dict(self) -> dict[str, Any]:
        """Return the figures by name."""
        return asdict(self)


def stats() -> ClusterStats:
    """Return the figures of all nodes' stores.

    Raises
    ------
    RayError, StoreUnavailableError
        This node has no store, and none can be started.

    Examples
    --------
    >>> zerrow_ray.stats().total.bytes_copied  # doctest: +SKIP
    0
    """
    answers = {
        node["NodeID"]: transfers.stats(node["NodeID"]) for node in ray.nodes() if node["Alive"]
    }
    nodes = {node_id: answer for node_id, answer in answers.items() if answer is not None}
    stores = list(nodes.values())
    summed = {
        each.name: sum(getattr(store, each.name) for store in stores)
        for each in fields(StoreTotals)
        if each.name != "sandbox"
    }
    sandbox = {
        each.name: sum(getattr(store.sandbox, each.name) for store in stores)
        for each in fields(SandboxStats)
    }
    return ClusterStats(StoreTotals(**summed, sandbox=SandboxStats(**sandbox)), nodes)
