"""Objects between nodes: each node's transfer agent serves its store's, on Ray's own address."""

import os
import secrets
from typing import Any

import ray
from ray.experimental.internal_kv import _internal_kv_get, _internal_kv_put

from zerrow_ray.config import NAMESPACE
from zerrow_store.errors import ObjectLostError
from zerrow_store.node.client import Allocations, Client
from zerrow_store.transfer import local
from zerrow_store.transfer.security import Security, Tls

_SECRET_KEY = b"zerrow_ray:transfer_secret"


def serve(store: str) -> str:
    """Return where other nodes fetch this node's objects. A node opens no port before that."""
    return local.serve(store, security(), ray.util.get_node_ip_address())


def fetch(client: Client, node_id: str, object_id: bytes, allocations: Allocations) -> Any:
    """Bring another node's object to this node's store; once, however many ask.

    Returns (where each allocation lies here, an owner that keeps it there). Raises ObjectLostError
    if the other node is gone.
    """
    location = _location(node_id, object_id)
    try:
        return local.fetch(client, security(), location, object_id, allocations)
    except ObjectLostError:
        # That node's agent may have been killed; another one listens elsewhere.
        again = _location(node_id, object_id)
        if again == location:
            raise
        return local.fetch(client, security(), again, object_id, allocations)


def security() -> Security:
    """Return the cluster's secret, made by the first node that asks, and Ray's own TLS settings."""
    _internal_kv_put(_SECRET_KEY, secrets.token_bytes(32), overwrite=False)
    return Security(secret=_internal_kv_get(_SECRET_KEY), tls=_tls())


def _tls() -> Tls | None:
    # As ray._common.tls_utils has it.
    if os.environ.get("RAY_USE_TLS", "0").lower() not in ("1", "true"):
        return None
    return Tls(
        certificate=os.environ["RAY_TLS_SERVER_CERT"],
        key=os.environ["RAY_TLS_SERVER_KEY"],
        authority=os.environ["RAY_TLS_CA_CERT"],
    )


def _location(node_id: str, object_id: bytes) -> str:
    try:
        actor = ray.get_actor(f"node-{node_id}", namespace=NAMESPACE)
        location: str = ray.get(actor.location.remote())
    except (ValueError, ray.exceptions.RayActorError) as error:
        raise ObjectLostError(
            f"object {object_id.hex()} is lost: its node {node_id} is gone"
        ) from error
    return location
