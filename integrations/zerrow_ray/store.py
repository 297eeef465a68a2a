"""The store of this Ray node: a daemon, started by the first process that needs it."""

import sys

import ray

from zerrow_ray import ray_compat
from zerrow_ray.config import store_name
from zerrow_ray.settings import announced
from zerrow_store.server.companion import Lasting
from zerrow_store.server.launch import launch

_UNUSED_SECONDS = 60.0


def start(node_id: str) -> None:
    """Start the store of this node. It ends with the raylet, or after a minute without users.

    Raises StoreUnavailableError.
    """
    settings = announced()
    context = ray.get_runtime_context()
    agent = [sys.executable, "-m", "zerrow_ray.agent", "--store", store_name(node_id)]
    agent += ["--node-id", node_id, "--gcs-address", context.gcs_address]
    agent += ["--host", ray.util.get_node_ip_address()]
    agent += ["--session", ray_compat.session_name()]
    launch(
        store_name(node_id),
        budget=settings.budget(_rays_own(node_id)),
        eviction=settings.policy(),
        watch_pid=ray_compat.raylet_pid(),
        log=ray_compat.logs_directory() / f"zerrow-store-{node_id[:12]}.log",
        lasting=Lasting(companion=tuple(agent), unused_seconds=_UNUSED_SECONDS),
    )


def _rays_own(node_id: str) -> int:
    """Return how many bytes Ray's own object store may hold on a node."""
    resources = {node["NodeID"]: node["Resources"] for node in ray.nodes()}
    return int(resources.get(node_id, {}).get("object_store_memory", 0))
