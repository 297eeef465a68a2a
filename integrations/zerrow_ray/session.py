"""This process's connection to the store of its Ray node: made at first use, one per process."""

import contextlib
import os
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from zerrow_ray import streams, transfers
from zerrow_ray.carriers import current_carrier, is_first_attempt
from zerrow_ray.config import NAMESPACE, store_name
from zerrow_ray.leases import LeasePool
from zerrow_ray.node_actor import NodeActor
from zerrow_ray.ownership import Ownership
from zerrow_ray.ray_compat import ends_after_calls
from zerrow_store.errors import NoOwnerError, StoreUnavailableError
from zerrow_store.forks import Lock
from zerrow_store.native._native import Encoded
from zerrow_store.node.client import Client, Publication
from zerrow_store.node.messages import Carrier

_NODES_SECONDS = 5.0


class Session:
    """The node's store and its actor, and what this process owns there.

    node_id: the Ray node in hexadecimal.
    """

    def __init__(self, node_id: str) -> None:
        self.node_id = node_id
        self.actor = node_actor(node_id)
        self.ownership = Ownership()
        self.client = self._connect()
        self.ownership.start(self._delete)
        self._leases: LeasePool | None = None
        self._nodes_asked, self._others = -_NODES_SECONDS, False

    def close(self) -> None:
        """Let go of a store whose cluster has been left."""
        self.ownership.close()
        self.client.close()

    def _connect(self) -> Client:
        name = store_name(self.node_id)
        try:
            return Client(name, owner=self.ownership)
        except StoreUnavailableError:
            ray.get(self.actor.ready.remote())
            return Client(name, owner=self.ownership)

    def publish(self, encode: Callable[[], Encoded]) -> tuple[Encoded, bytes, ray.ObjectRef | None]:
        """Publish what `encode` encodes of a result; returns it, the object's id, and its lease.

        The object belongs to the owner of the result, who deletes it. If that one is not connected
        to this node's store, but may be to another node's, the object has a lease instead. Raises
        NoOwnerError if there is no other node, and where a lease would not last as long as the
        result: of tasks that are run again, and of workers that end soon, for whom Ray may forget
        who else has their leases.
        """
        carrier = current_carrier()
        if carrier is not None:
            object_id, encoded = os.urandom(16), encode()
            try:
                self.client.publish(object_id, encoded, carrier=Carrier(*carrier))
            except NoOwnerError:
                pass
            else:
                _note_publication(object_id)
                return encoded, object_id, None
        if ends_after_calls() or not is_first_attempt() or not self._has_other_nodes():
            raise NoOwnerError("nobody would tell when this is not needed any more")
        return self._publish_with_lease(encode)

    def _has_other_nodes(self) -> bool:
        """Whether the cluster had more than this node some seconds ago."""
        now = time.monotonic()
        if now > self._nodes_asked + _NODES_SECONDS:
            self._nodes_asked = now
            self._others = sum(node["Alive"] for node in ray.nodes()) > 1
        return self._others

    def _publish_with_lease(
        self, encode: Callable[[], Encoded]
    ) -> tuple[Encoded, bytes, ray.ObjectRef]:
        if self._leases is None:
            self._leases = LeasePool(self.actor)
        while True:
            lease, issuer = self._leases.take()
            object_id: bytes = lease.binary()
            encoded = encode()
            if issuer in self.client.publish(object_id, encoded):
                streams.keep(lease, self.client)
                _note_publication(object_id)
                return encoded, object_id, lease
            # The lease is of an actor that died: nobody would hear of its end.
            self._leases.discard()
            self.client.delete(object_id)

    def publish_put(self, encoded: Encoded) -> tuple[bytes, Publication]:
        """Publish for a put of this process; returns the object's id, and what to wait for.

        The object is this process's to delete, by `delete_with` or `delete`.
        """
        object_id = os.urandom(16)
        return object_id, self.client.begin_publish(object_id, encoded, owned=True)

    def _delete(self, object_ids: list[bytes]) -> None:
        # Without a store, the client deletes them as soon as there is one again.
        with contextlib.suppress(StoreUnavailableError):
            self.client.delete(object_ids, missing_ok=True)

    def fetch(
        self, node_id: str, object_id: bytes, allocations: list[tuple[bytes, int, int]]
    ) -> Any:
        """Bring another node's object to this node's store; once, however many ask.

        Returns (where each allocation lies here, an owner that keeps it there).
        """
        # In this thread, not in one of its own: Ray holds the worker's lock while it deserializes,
        # and another thread's `ray.get` would wait for it.
        return transfers.fetch(self.client, node_id, object_id, allocations)


_this_thread = threading.local()


class Publications(list[bytes]):
    """Ids of objects. A plain list cannot be referred to weakly."""


def record_publications() -> Publications:
    """Return a list to which are added, as long as it is alive and until the next call, the ids of
    the objects that this thread publishes for others: of the results of its task, as Ray
    serializes them.
    """
    published = Publications()
    _this_thread.publications = weakref.ref(published)
    return published


def _note_publication(object_id: bytes) -> None:
    reference = getattr(_this_thread, "publications", None)
    published = None if reference is None else reference()
    if published is not None:
        published.append(object_id)


_lock = Lock()
_session: Session | None = None
_owner_pid: int | None = None


def current_session() -> Session:
    """Return this process's session, made at first use, after a fork, in a new cluster.

    Raises StoreUnavailableError or RayError when the node has no store and cannot get one.
    """
    global _session, _owner_pid
    node_id = ray.get_runtime_context().get_node_id()
    with _lock:
        if _session is None or _session.node_id != node_id or _owner_pid != os.getpid():
            if _session is not None and _owner_pid == os.getpid():
                _session.close()
            _session, _owner_pid = Session(node_id), os.getpid()
        return _session


def node_actor(node_id: str) -> Any:
    """Return the actor that supervises a node's store, starting it if there is none."""
    return NodeActor.options(  # type: ignore[attr-defined]  # made by ray.remote
        name=f"node-{node_id}",
        namespace=NAMESPACE,
        get_if_exists=True,
        lifetime="detached",
        num_cpus=0,
        max_restarts=-1,
        max_task_retries=-1,
        max_concurrency=16,
        scheduling_strategy=NodeAffinitySchedulingStrategy(node_id, soft=False),
    ).remote(node_id)


def start_nodes() -> None:
    """Start the stores of all nodes that are alive, without waiting for them."""
    for node in ray.nodes():
        if node["Alive"]:
            node_actor(node["NodeID"])
