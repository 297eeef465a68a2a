"""The session: this process's connection to the store of its Ray node, made at first use."""

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
        """Disconnect, after this process has left the cluster."""
        self.ownership.close()
        self.client.close()

    def _connect(self) -> Client:
        name = store_name(self.node_id)
        try:
            return Client(name, owner=self.ownership, missed=self._start_again)
        except StoreUnavailableError as error:
            if isinstance(error.__cause__, ProtocolError):  # there is a store, which refuses this
                raise
            try:
                store.start(self.node_id)
                return Client(name, owner=self.ownership, missed=self._start_again)
            except (StoreUnavailableError, OSError):
                ray_compat.end_with_raylet()
                raise

    def _start_again(self) -> None:
        """Start the store again, all processes of which have ended.

        Do nothing if this process has left Ray: a question to Ray would start a new one.
        """
        try:
            with ray_compat.connection() as connected:
                if connected and ray.get_runtime_context().get_node_id() == self.node_id:
                    store.start(self.node_id)
        except Exception as error:  # for instance from a Ray that is shutting down
            logger.warning("the node's store is away, and cannot be started: %s", error)

    def publish(self, encode: Callable[[], Encoded]) -> tuple[Encoded, bytes]:
        """Publish what `encode` encodes of a result; return it, and the object's id.

        The object belongs to the owner of the result, which deletes it. Raises NoOwnerError if it
        is not known which reference carries the result, or if no process with the plugin owns that
        reference.
        """
        carrier = current_carrier()
        if carrier is None:
            raise NoOwnerError("nobody would tell when this is not needed any more")
        object_id, encoded = os.urandom(16), encode()
        self.client.publish(object_id, encoded, carrier=Carrier(*carrier))
        note_publication(object_id)
        return encoded, object_id

    def publish_put(self, encoded: Encoded) -> tuple[bytes, Publication]:
        """Publish an object of a put; return its id, and the publication to wait for.

        This process has to delete the object, by `delete_with` or `delete`.
        """
        object_id = os.urandom(16)
        return object_id, self.client.begin_publish(object_id, encoded, owned=True)

    def _delete(self, object_ids: list[bytes]) -> None:
        # If the store is away, the client deletes them once it is back.
        with contextlib.suppress(StoreUnavailableError):
            self.client.delete(object_ids, missing_ok=True)


@dataclass(frozen=True)
class _Absence:
    """A node that was found to have no store. It is not looked at again before `until`."""

    node_id: str
    reason: str
    until: float


_lock = Lock()
_session: Session | None = None
_owner_pid: int | None = None
_absence: _Absence | None = None


def current_session() -> Session:
    """Return this process's session. A new one is made at first use, after a fork, and in a new
    cluster.

    Raises StoreUnavailableError if the node has no store and none can be started, or if its store
    is of another version of the plugin.
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
        # Otherwise each table would wait for another attempt.
        _absence = _Absence(node_id, str(error), time.monotonic() + _ABSENCE_SECONDS)
        raise
