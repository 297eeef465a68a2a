"""What the nodes' stores hold and have done."""

from typing import Any

import ray

from zerrow_ray import transfers
from zerrow_store.sandbox import SandboxStats

_SUMMED = (
    "objects",
    "bytes_stored",
    "bytes_spilled",
    "bytes_shared",
    "bytes_reshared",
    "bytes_copied",
)


def stats() -> dict[str, Any]:
    """Return {"total": {...}, "nodes": {node_id: {...}}}.

    Each holds `objects`, `bytes_stored` and `bytes_spilled` (held now in memory and on disk, each
    byte once) and the running counts `bytes_shared` (published where they lay), `bytes_reshared`
    (referred to in somebody else's segment) and `bytes_copied`. `sandbox` holds the running counts
    of `zerrow_store.sandbox.SandboxStats` for all workers, but for the last call of a worker that
    was killed; a node's start again from 0 with its store's server. Raises RayError or
    StoreUnavailableError if this node has no store and cannot get one.
    """
    nodes = {
        node["NodeID"]: transfers.stats(node["NodeID"]) for node in ray.nodes() if node["Alive"]
    }
    answers = {node_id: answer or _nothing() for node_id, answer in nodes.items()}
    total: dict[str, Any] = {key: sum(a[key] for a in answers.values()) for key in _SUMMED}
    total["sandbox"] = _sandbox([answer["sandbox"] for answer in answers.values()])
    for answer in answers.values():
        answer["sandbox"] = _sandbox([answer["sandbox"]])
    return {"total": total, "nodes": answers}


def _nothing() -> dict[str, Any]:
    """What a node has whose store nobody has needed yet."""
    return dict.fromkeys(_SUMMED, 0) | {"sandbox": {}}


def _sandbox(counts: list[dict[str, int]]) -> dict[str, int]:
    return {key: sum(each.get(key, 0) for each in counts) for key in SandboxStats().as_dict()}
