"""Leases: what ties a result's object to Ray's reference counts if its owner is on another node.

A lease is an ObjectRef that the node's actor owns. It travels nested in the object's message, so
Ray counts it for as long as any message, task or view needs the object; when nobody is left, the
actor hears of it and deletes the object. Leases cost the actor about a millisecond each, so every
process fetches them ahead in batches.
"""

import ctypes
import os
import threading
from collections import deque
from typing import Any

import ray

from zerrow_ray.ray_compat import job_of_this_process
from zerrow_store.node.segments import start_time

_FIRST_BATCH = 8
_LARGEST_BATCH = 256


class LeasePool:
    """Leases of one node's actor, fetched ahead. Safe to use from any thread.

    Fetching happens in a thread of its own: a blocking `ray.get` has no place on the event loop of
    an async actor, whose results are serialized there.
    """

    def __init__(self, actor: Any) -> None:
        self._actor = actor
        self._changed = threading.Condition()
        self._leases: deque[tuple[ray.ObjectRef, bytes]] = deque()
        self._batch = _FIRST_BATCH
        self._fetching = False
        self._error: Exception | None = None
        with self._changed:
            self._fetch_ahead()

    def take(self) -> tuple[ray.ObjectRef, bytes]:
        """Return a fresh lease and the id of the supervisor that it is of.

        Waits for the actor if none is ready; Ray restarts it if it died. Raises RayError if it
        cannot.
        """
        with self._changed:
            if not self._leases:
                # The consumer is faster than the fetching: fetch more at a time.
                self._batch = min(self._batch * 2, _LARGEST_BATCH)
            while not self._leases:
                self._fetch_ahead()
                self._changed.wait()
                if self._error is not None:
                    error, self._error = self._error, None
                    raise error
            if len(self._leases) <= self._batch // 2:
                self._fetch_ahead()
            return self._leases.popleft()

    def discard(self) -> None:
        """Forget leases fetched ahead, as those of an actor that died."""
        with self._changed:
            self._leases.clear()

    def _fetch_ahead(self) -> None:
        if not self._fetching:
            self._fetching = True
            threading.Thread(target=self._fetch, name="zerrow-leases", daemon=True).start()

    def _fetch(self) -> None:
        leases, error = [], None
        try:
            worker = (os.getpid(), start_time(os.getpid()), job_of_this_process())
            supervisor_id, fresh = ray.get(self._actor.leases.remote(self._batch, worker))
            _keep_for_good(fresh.pop())
            leases = [(lease, supervisor_id) for lease in fresh]
        except Exception as caught:
            error = caught
        with self._changed:
            self._leases.extend(leases)
            self._error = error
            self._fetching = False
            self._changed.notify_all()


def _keep_for_good(lease: ray.ObjectRef) -> None:
    """Keep the lease by whose end the actor is told of this worker's, also while Python ends."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(lease))
