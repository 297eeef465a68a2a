"""The receiving side: lands objects of other machines in this machine's store, each once.

A request for an object that is already on its way waits for it. A landed object is a copy in this
machine's store, under the same id. Readers find it there, and other machines can read it from here.
The copy stays until the owner's machine says that the owner has deleted the object, or until memory
is short. If no machine would say so, the copy goes with its last reader.
"""

import hashlib
import logging
import threading
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import Future

import msgspec

from zerrow_store.errors import (
    ObjectExistsError,
    ObjectGoneError,
    ObjectLackingError,
    ObjectLostError,
)
from zerrow_store.forks import Lock
from zerrow_store.transfer import messages as m
from zerrow_store.transfer.connections import Connections
from zerrow_store.transfer.landing import Landed, Landing
from zerrow_store.transfer.neighbours import Neighbours
from zerrow_store.transfer.reading import read_object
from zerrow_store.transfer.security import Security
from zerrow_store.transfer.seeking import LEAST_BYTES, seek
from zerrow_store.transfer.segment_files import FileClient

logger = logging.getLogger("zerrow_store.transfer")

_AT_ONCE = 4
"""How many objects are read from one machine at a time. They share a link; and a machine that is
gone does not keep others waiting."""


class Receiver:
    """Lands objects in the store of `client`. Safe to use from any thread.

    served_at: where other machines can read them; empty if they cannot.
    """

    def __init__(self, client: FileClient, security: Security, neighbours: Neighbours) -> None:
        self.served_at = ""
        self._client = client
        self._security = security
        self._connections = Connections(security)
        self._neighbours = neighbours
        self._lock = Lock()
        self._landing: dict[bytes, Future[Landed]] = {}
        self._peers: defaultdict[str, threading.Semaphore] = defaultdict(
            lambda: threading.Semaphore(_AT_ONCE)
        )

    def fetch(self, location: str, object_id: bytes, allocations: list[m.Allocation]) -> Landed:
        """Return an object of another machine, landed here once for all that ask for it.

        location: where to read it; empty if any copy will do. Raises ObjectLostError if the other
        machine is gone or does not have the object, StoreFullError if it does not fit.
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
                future.set_result(self._have(location, object_id, allocations))
            except BaseException as error:
                # Drop the traceback: its frames refer to the memory.
                future.set_exception(error.with_traceback(None))
            finally:
                with self._lock:
                    del self._landing[key]
        try:
            return future.result()
        finally:
            del future  # its error refers to this frame, and to those of all callers

    def _have(self, location: str, object_id: bytes, allocations: list[m.Allocation]) -> Landed:
        landed = self._found(object_id, allocations)
        if landed is None:
            with self._lock:
                peer = self._peers[location]
            with peer:
                landed = self._land(location, object_id, allocations)
        return landed

    def _found(self, object_id: bytes, allocations: list[m.Allocation]) -> Landed | None:
        """Return the store's copy; None if it has none, or not of these allocations."""
        hold = self._client.hold_copy(object_id, allocations)
        if hold is None:
            return None
        places = [hold.moved[segment_id, offset] for segment_id, offset, _ in allocations]
        return Landed(object_id, places, hold)

    def _land(self, location: str, object_id: bytes, allocations: list[m.Allocation]) -> Landed:
        landing = Landing(self._client, [size for _, _, size in allocations])
        is_large = sum(len(target) for target in landing.targets) >= LEAST_BYTES

        def read(place: str) -> Landed:
            targets = landing.targets
            node = read_object(place, self._connections, object_id, allocations, targets)
            nbytes = sum(len(target) for target in targets)
            self._client.count_transfer(received_objects=1, received_bytes=nbytes)
            return self._keep(landing.conclude(), object_id, allocations, place, node)

        def land(source: str) -> Landed:
            if not is_large:
                return read(source)
            return seek(source, self._security, object_id, read, served_at=self.served_at)

        return land(location) if location else self._from_anywhere(object_id, land)

    def _from_anywhere(self, object_id: bytes, land: Callable[[str], Landed]) -> Landed:
        all_lack_it = True
        for location in self._neighbours.locations():
            try:
                return land(location)
            except ObjectLostError as error:
                all_lack_it &= isinstance(error, ObjectLackingError)
                logger.info("no copy there: %s", str(error))
        if all_lack_it and not self._neighbours.is_any_away():
            raise ObjectGoneError(f"object {object_id.hex()} is on no machine any more")
        raise ObjectLostError(f"object {object_id.hex()} is on no machine that answers")

    def _keep(
        self,
        landed: Landed,
        object_id: bytes,
        allocations: list[m.Allocation],
        source: str,
        node: bytes,
    ) -> Landed:
        """Enter a landed object as a copy that others find; return it with its new hold.

        The copy stays if a machine will say when the object ends. node: that machine; empty for the
        one at `source`.
        """
        keeper = self._neighbours.known(node or self._neighbours.at(source))
        moved = [
            (segment_id, offset, *place)
            for (segment_id, offset, _), place in zip(allocations, landed.places, strict=True)
        ]
        try:
            hold = self._client.land(object_id, landed.object_id, moved, keeper)
        except ObjectExistsError:
            return landed
        if keeper:
            self._neighbours.follow(keeper, [object_id])
        return Landed(object_id, landed.places, hold)
