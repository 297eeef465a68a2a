"""Requests to other nodes' stores, by way of their agents: for objects, figures, and hints."""

import logging
import threading
import time
from typing import Any

import ray

from zerrow_ray import cluster, ray_compat
from zerrow_ray.recovery import lost_with_node
from zerrow_ray.session import current_session
from zerrow_store.client.client import Allocations, Client
from zerrow_store.errors import ObjectGoneError, ObjectLostError
from zerrow_store.protocol.reports import StoreStats
from zerrow_store.transfer import local, remote
from zerrow_store.transfer.channel import is_listening
from zerrow_store.transfer.security import Security

logger = logging.getLogger("zerrow_ray")

_PAUSE_SECONDS = 0.05
_PATIENCE_SECONDS = 120.0

_locations: dict[str, str] = {}
"""The last known locations of agents, by node, which save asking Ray."""


def fetch(client: Client, node_id: str, object_id: bytes, allocations: Allocations) -> Any:
    """Bring another node's object to this node's store, once for all that ask for it. If that node
    is gone, a copy on any other node will do.

    Returns where each allocation lies here, and the hold that keeps them there. Raises
    LostWithNodeError if that node is gone and all others say that they do not have the object,
    ObjectLostError if it cannot be had.
    """
    try:
        return _fetch_from(client, node_id, object_id, allocations)
    except ObjectLostError:
        if _is_alive(node_id):
            raise
    return _fetch_copy(client, node_id, object_id, allocations)


def fetch_ahead(node_id: str, object_id: bytes, allocations: Allocations) -> None:
    """Bring another node's object to this node's store, if it can be had there at once. As a copy
    it stays here until the object goes, or memory is short.

    Raises ZerrowError, or Ray's errors, if it cannot be had.
    """
    with ray_compat.connection() as connected:
        if not connected:
            return
        client = current_session().client
        location = _locations.get(node_id) or _said_location(node_id)
    if location and client.hold_copy(object_id, allocations) is None:
        local.fetch(client, None, location, object_id, allocations)


def is_here(object_id: bytes, allocations: Allocations) -> bool:
    """Whether this node's store has a copy of another node's object."""
    return current_session().client.hold_copy(object_id, allocations) is not None


def _fetch_copy(client: Client, node_id: str, object_id: bytes, allocations: Allocations) -> Any:
    """Find a copy. Ask again while a node does not answer: that may be the one that is gone."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            return local.fetch(client, None, "", object_id, allocations)
        except ObjectGoneError:
            raise lost_with_node(node_id) from None
        except ObjectLostError:
            if time.monotonic() > deadline:
                raise
        time.sleep(_PAUSE_SECONDS)


def _fetch_from(client: Client, node_id: str, object_id: bytes, allocations: Allocations) -> Any:
    location = _locations.get(node_id) or _location(node_id)
    while True:
        try:
            landed = local.fetch(client, None, location, object_id, allocations)
            _locations[node_id] = location
            return landed
        except ObjectLostError:
            _locations.pop(node_id, None)
            # That node's agent may have been killed, and the next one listens elsewhere.
            location, failed = _other_location(node_id, location), location
            if location == failed:
                raise


def stats(node_id: str) -> StoreStats | None:
    """Return the figures of a node's store; None if it has none, or if it does not answer."""
    session = current_session()
    if node_id == session.node_id:
        return session.client.stats()
    location = _said_location(node_id)
    if not location:
        return None
    try:
        security = cluster.security(ray_compat.kv_get)
        report: StoreStats = remote.report(location, security, "stats")
        return report
    except ObjectLostError as error:
        logger.warning("a node's figures are missing: %s", error)
        return None


def ahead(node_id: str, object_ids: list[bytes], *, spill: bool) -> None:
    """Have objects of a node's store spilled as soon as nobody reads them, or read back ahead of
    need. Does not wait.
    """
    session = current_session()
    if node_id == session.node_id:
        tell = session.client.spill_ahead if spill else session.client.read_ahead
        tell(object_ids)
    elif location := _said_location(node_id):
        # Not in the thread: Ray may be shut down while that runs.
        security = cluster.security(ray_compat.kv_get)
        arguments = [location, security, object_ids, spill]
        threading.Thread(target=_ahead, args=arguments, name="zerrow-ahead", daemon=True).start()


def _ahead(location: str, security: Security, object_ids: list[bytes], spill: bool) -> None:
    try:
        remote.ahead(location, security, object_ids, spill=spill)
    except ObjectLostError as error:
        logger.warning("a node was not told what is wanted soon: %s", error)


def _other_location(node_id: str, failed: str) -> str:
    """Return the location of a node's next agent; `failed`, if that one still listens."""
    if is_listening(failed):
        return _said_location(node_id) or failed
    return _location(node_id, but=failed)


def _location(node_id: str, *, but: str = "") -> str:
    """Return the location of a node's agent. Wait for it, as long as the node is alive.

    but: the location of an agent that has ended. Raises ObjectLostError.
    """
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        location = _said_location(node_id)
        if location not in ("", but):
            return location
        if not _is_alive(node_id) or time.monotonic() > deadline:
            raise ObjectLostError(f"it was on node {node_id}, which is gone")
        time.sleep(_PAUSE_SECONDS)


def _is_alive(node_id: str) -> bool:
    return any(node["NodeID"] == node_id and node["Alive"] for node in ray.nodes())


def _said_location(node_id: str) -> str:
    """Return the published location of a node's agent; empty if it has none, or has ended."""
    location: bytes | None = ray_compat.kv_get(cluster.location_key(node_id))
    return "" if location is None else location.decode()
