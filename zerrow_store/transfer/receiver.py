"""The receiving side: lands objects of other machines in this machine's store, each once.

Whoever asks for an object that is on its way already waits for it. An object that has landed is
found again as long as the store has it, which is until nobody reads it any more.
"""

import hashlib
import threading
from collections import defaultdict
from concurrent.futures import Future
from dataclasses import dataclass

import msgspec

from zerrow_store.errors import ObjectNotFoundError
from zerrow_store.forks import Lock
from zerrow_store.node.books import Place
from zerrow_store.node.client import Client
from zerrow_store.transfer import messages as m
from zerrow_store.transfer.landing import Landed, Landing
from zerrow_store.transfer.reading import read_object
from zerrow_store.transfer.security import Security

_AT_ONCE = 4
"""Objects on their way from one machine: they share a link, and a machine that is gone keeps nobody
from what others have."""

_FIRST_SWEEP = 64


@dataclass(frozen=True)
class _Known:
    """A landed object that may be gone by now."""

    object_id: bytes
    places: list[Place]


class Receiver:
    """Lands objects in the store of `client`. Safe to use from any thread."""

    def __init__(self, client: Client, security: Security) -> None:
        self._client = client
        self._security = security
        self._lock = Lock()
        self._landing: dict[bytes, Future[Landed]] = {}
        self._landed: dict[bytes, _Known] = {}
        self._sweep_at = _FIRST_SWEEP
        self._peers: defaultdict[str, threading.Semaphore] = defaultdict(
            lambda: threading.Semaphore(_AT_ONCE)
        )

    def fetch(self, location: str, object_id: bytes, allocations: list[m.Allocation]) -> Landed:
        """Return an object of another machine, landed here, once, however many ask.

        Raises ObjectLostError if the other machine is gone or has not got it, StoreFullError if it
        does not fit.
        """
        packed = msgspec.msgpack.encode((object_id, allocations))
        key = hashlib.sha256(packed).digest()
        with self._lock:
            future = self._landing.get(key)
            mine = future is None
            if future is None:
                future = self._landing[key] = Future()
        if mine:
            try:
                future.set_result(self._have(key, location, object_id, allocations))
            except BaseException as error:
                # Without the frames that it came through, which refer to the memory.
                future.set_exception(error.with_traceback(None))
            finally:
                with self._lock:
                    del self._landing[key]
        try:
            return future.result()
        finally:
            del future  # its error refers to this frame, and to those of all callers

    def _have(
        self, key: bytes, location: str, object_id: bytes, allocations: list[m.Allocation]
    ) -> Landed:
        landed = self._find(key)
        if landed is None:
            with self._lock:
                peer = self._peers[location]
            with peer:
                landed = self._land(location, object_id, allocations)
            self._remember(key, landed)
        return landed

    def _find(self, key: bytes) -> Landed | None:
        known = self._landed.get(key)
        if known is None:
            return None
        try:
            return Landed(known.object_id, known.places, self._client.hold(known.object_id))
        except ObjectNotFoundError:
            return None

    def _land(self, location: str, object_id: bytes, allocations: list[m.Allocation]) -> Landed:
        landing = Landing(self._client, [size for _, _, size in allocations])
        read_object(location, self._security, object_id, allocations, landing.targets)
        return landing.conclude()

    def _remember(self, key: bytes, landed: Landed) -> None:
        with self._lock:
            self._landed[key] = _Known(landed.object_id, landed.places)
            if len(self._landed) < self._sweep_at:
                return
        there = {info.object_id for info in self._client.list()}
        with self._lock:
            self._landed = {k: v for k, v in self._landed.items() if v.object_id in there}
            self._sweep_at = max(_FIRST_SWEEP, 2 * len(self._landed))
