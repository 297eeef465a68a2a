"""What the nodes' stores hold and have done."""

from typing import Any

import ray

from zerrow_ray.session import node_actor
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
    was killed; a node's start again from 0 with its actor. Raises RayError if a node's actor
    cannot be asked.
    """
    nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"]]
    answers = ray.get([node_actor(node).stats.remote() for node in nodes])
    total: dict[str, Any] = {key: sum(answer[key] for answer in answers) for key in _SUMMED}
    sandbox = [answer["sandbox"] for answer in answers]
    total["sandbox"] = {key: sum(each[key] for each in sandbox) for key in SandboxStats().as_dict()}
    return {
        "total": total,
        "nodes": dict(zip(nodes, answers, strict=True)),
    }
