"""What the nodes' stores hold and have done."""

from typing import Any

import ray

from zerrow_ray.session import node_actor

_SUMMED = ("objects", "bytes_stored", "bytes_shared", "bytes_reshared", "bytes_copied")


def stats() -> dict[str, Any]:
    """Return {"total": {...}, "nodes": {node_id: {...}}}.

    Each holds `objects` and `bytes_stored` (held now, each byte once) and the running counts
    `bytes_shared` (published where they lay), `bytes_reshared` (referred to in somebody else's
    segment) and `bytes_copied`. Raises RayError if a node's actor cannot be asked.
    """
    nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"]]
    answers = ray.get([node_actor(node).stats.remote() for node in nodes])
    return {
        "total": {key: sum(answer[key] for answer in answers) for key in _SUMMED},
        "nodes": dict(zip(nodes, answers, strict=True)),
    }
