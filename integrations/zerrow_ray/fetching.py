"""Fetching ahead: other nodes' objects are brought to this node before their values are read.

Ray brings messages, and reads them one by one. What they refer to is fetched by threads of this
process as soon as it knows of a message: when it waits for a reference (`waiting`), or is about to
read several values, which then travel side by side. An object that cannot be fetched ahead is
fetched, or found to be lost, when it is read.
"""

import logging
import queue
import sys
from concurrent.futures import Future
from typing import Any

import ray
from ray.exceptions import RayError

from zerrow_ray import ray_compat
from zerrow_ray.travelling import Allocation, Travelling, travelling_in
from zerrow_store import forks, threads
from zerrow_store.errors import ZerrowError
from zerrow_store.lru import LruCache

logger = logging.getLogger("zerrow_ray")

_AT_ONCE = 4
_MOST_KNOWN = 4096


def far(message: Any) -> Travelling | None:
    """Return what a message refers to on another node; None if it refers to nothing there."""
    stream = ray_compat.pickled(message)
    travelling = None if stream is None else travelling_in(stream)
    if travelling is None or travelling.node_id == ray.get_runtime_context().get_node_id():
        return None
    return travelling


def begin(travelling: Travelling, *, look_first: bool = False) -> list["Future[None]"]:
    """Begin to fetch objects.

    look_first: ask the store whether they are here, so that it is known at once if they are. This
    is not for a thread that keeps Ray connected: the store's answers may wait for that.
    Returns a future for each object, which ends when that is here, or cannot be had ahead.
    """
    objects = travelling.objects.items()
    return [_fetches.begin(travelling.node_id, *each, look_first=look_first) for each in objects]


class _Fetches:
    """Threads that fetch. _known: the futures of the latest objects, by id."""

    def __init__(self) -> None:
        self._lock = forks.Lock()
        self.forget()

    def forget(self) -> None:
        """Begin anew, in a forked child, which has no such threads."""
        self._known: LruCache[bytes, Future[None]] = LruCache(_MOST_KNOWN)
        self._wanted: queue.SimpleQueue[tuple[Future[None], str, bytes, list[Allocation]]]
        self._wanted = queue.SimpleQueue()
        self._threads = 0

    def begin(
        self, node_id: str, object_id: bytes, allocations: list[Allocation], *, look_first: bool
    ) -> "Future[None]":
        """Begin to fetch an object, unless that was begun before, or it is here."""
        if (known := self._known.get(object_id)) is not None:
            return known
        future: Future[None] = Future()
        if look_first and _is_here(object_id, allocations):
            future.set_result(None)
        with self._lock:
            if (known := self._known.get(object_id)) is not None:  # by another thread, meanwhile
                return known
            self._known.put(object_id, future)
            if not future.done():
                self._wanted.put((future, node_id, object_id, allocations))
                if self._threads < _AT_ONCE:
                    self._threads += 1
                    threads.start(self._run, name="zerrow-ahead")
        return future

    def _run(self) -> None:
        while True:
            future, node_id, object_id, allocations = self._wanted.get()
            try:
                _fetch(node_id, object_id, allocations)
            finally:
                future.set_result(None)


def _is_here(object_id: bytes, allocations: list[Allocation]) -> bool:
    # What this needs loads pyarrow. A process without it has never read an object.
    if "zerrow_ray.transfers" not in sys.modules:
        return False
    from zerrow_ray import transfers

    try:
        return transfers.is_here(object_id, allocations)
    except (ZerrowError, RayError) as error:  # the store is away: so it will be for a fetch
        logger.info("it is not known whether an object is here: %s", error)
        return False


def _fetch(node_id: str, object_id: bytes, allocations: list[Allocation]) -> None:
    from zerrow_ray import transfers

    try:
        transfers.fetch_ahead(node_id, object_id, allocations)
    except Exception as error:  # if it still holds then, whoever reads the object gets it
        logger.info("an object of node %s is not fetched ahead: %s", node_id, error)


_fetches = _Fetches()

forks.register(in_child=_fetches.forget)
