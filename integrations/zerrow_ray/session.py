"""This process's connection to the store of its Ray node: made at first use, one per process."""

import contextlib
import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass

import ray

from zerrow_ray import ray_compat, store
from zerrow_ray.config import store_name
from zerrow_ray.ownership import Ownership
from zerrow_ray.task_context import current_carrier, note_publication
from zerrow_store.client.client import Client
from zerrow_store.client.publications import Publication
from zerrow_store.errors import NoOwnerError, ProtocolError, StoreUnavailableError
from zerrow_store.forks import Lock
from zerrow_store.native._native import Encoded
from zerrow_store.protocol.messages import Carrier

logger = logging.getLogger("zerrow_ray")

_ABSENCE_SECONDS = 30.0


class Session:
    """The node's store, and what this process owns there.

    node_id: the Ray node in hexadecimal.
    """

    def __init__(self, node_id: str) -> None:
        self.node_id = node_id
        self.ownership = Ownership()
        self.client = self._connect()
        self.ownership.start(self._delete)

    def close(self) -> None:
        """Let go of a store whose cluster has been left."""
        self.ownership.close()
        self.client.close()

    def _connect(self) -> Client:
        name = store_name(self.node_id)
        try:
            return Client(name, owner=self.ownership, missed=self._start_again)
        except StoreUnavailableError as error:
            if isinstance(error.__cause__, ProtocolError):  # there is one, which refuses
                raise
            store.start(self.node_id)
            return Client(name, owner=self.ownership, missed=self._start_again)

    def _start_again(self) -> None:
        """Start the store, all of whose processes have ended, unless this Ray has been left: asked
        for anything then, Ray would begin anew.
        """
        try:
            with ray_compat.connection() as connected:
                if connected and ray.get_runtime_context().get_node_id() == self.node_id:
                    store.start(self.node_id)
        except Exception as error:  # of a Ray that is about to end, for one
            logger.warning("the node's store is away, and cannot be started: %s", error)

    def publish(self, encode: Callable[[], Encoded]) -> tuple[Encoded, bytes]:
        """Publish what `encode` encodes of a result; returns it, and the object's id.

        The object belongs to the owner of the result, who deletes it. Raises NoOwnerError if it is
        not known which reference carries the result, or if no process with the plugin owns that.
        """
        carrier = current_carrier()
        if carrier is None:
            raise NoOwnerError("nobody would tell when this is not needed any more")
        object_id, encoded = os.urandom(16), encode()
        self.client.publish(object_id, encoded, carrier=Carrier(*carrier))
        note_publication(object_id)
        return encoded, object_id

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


@dataclass(frozen=True)
class _Absence:
    """A node without a store, as was found; not looked at again until then."""

    node_id: str
    reason: str
    until: float


_lock = Lock()
_session: Session | None = None
_owner_pid: int | None = None
_absence: _Absence | None = None


def current_session() -> Session:
    """Return this process's session, made at first use, after a fork, in a new cluster.

    Raises StoreUnavailableError when the node has no store and cannot get one, or has one of
    another version of the plugin.
    """
    global _session, _owner_pid
    node_id = ray.get_runtime_context().get_node_id()
    with _lock:
        if _session is None or _session.node_id != node_id or _owner_pid != os.getpid():
            if _session is not None and _owner_pid == os.getpid():
                _session.close()
            _session, _owner_pid = _make_session(node_id), os.getpid()
        return _session


def _make_session(node_id: str) -> Session:
    global _absence
    if _absence is not None and _absence.node_id == node_id and time.monotonic() < _absence.until:
        raise StoreUnavailableError(_absence.reason)
    try:
        return Session(node_id)
    except StoreUnavailableError as error:
        # Each table would wait for the attempt otherwise.
        _absence = _Absence(node_id, str(error), time.monotonic() + _ABSENCE_SECONDS)
        raise
