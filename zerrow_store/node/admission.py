"""Puts: checked, admitted when they fit, and waiting in order while room is made for them."""

import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from zerrow_store.errors import (
    ObjectExistsError,
    ObjectLostError,
    ProtocolError,
    StoreFullError,
)
from zerrow_store.node.books import COUNTERS, NO_PROCESS, Packed
from zerrow_store.node.connection import DEFERRED, Connection
from zerrow_store.node.lives import Lives
from zerrow_store.node.segments import check_segment

_MOST_COUNTED = 1 << 50
_PUT_FIELDS = 7  # without the segments that are to be adopted


class Admission:
    """See the module. supervisor_id: of who supervises now. retry: answers a put that waited."""

    def __init__(
        self,
        lives: Lives,
        budget: int,
        *,
        supervisor_id: Callable[[], bytes],
        retry: Callable[[Connection, int, list[Any]], None],
    ) -> None:
        self._lives = lives
        self._budget = budget
        self._supervisor_id = supervisor_id
        self._retry = retry
        self._full: deque[tuple[Connection, int, list[Any]]] = deque()

    def put(self, request_id: int, connection: Connection, *body: Any) -> Any:
        """Enter an object, once there is room for it: those that wait for it come first, unless
        they hold nothing and this one does: with its end, its inputs go.
        """
        # Segments that are to be adopted cannot wait: their descriptors are the next to be taken.
        patient = not any(body[_PUT_FIELDS:])
        if patient and any(bool(each.holds) >= bool(connection.holds) for each, *_ in self._full):
            own = [(connection.segment or b"", body[1])] if body[1] else []
            if self._lives.books.new_bytes(own):
                return self._wait_for_room(connection, request_id, body)
        try:
            return self._put(connection, *body)
        except StoreFullError as error:
            if not patient or error.needed > self._budget:
                raise
            if not self._lives.all_returned():
                return self._wait_for_room(connection, request_id, body)
            if not self._lives.evictor.make_room(error.needed):
                raise
        try:  # what was dropped may be enough
            return self._put(connection, *body)
        except StoreFullError:
            if not self._lives.spiller.is_busy:
                raise
        return self._wait_for_room(connection, request_id, body)

    def let_in(self) -> None:
        """Enter the waiting objects that fit now, in their order; who holds inputs goes first."""
        waiting = deque(sorted(self._full, key=lambda each: not each[0].holds))
        self._full.clear()
        while waiting and not self._full:
            connection, request_id, body = waiting.popleft()
            if connection.socket.fileno() >= 0:
                self._retry(connection, request_id, body)
        self._full.extend(waiting)

    def dropped(self, connection: Connection) -> None:
        """A connection has ended: it waits for nothing."""
        self._full = deque(waiting for waiting in self._full if waiting[0] is not connection)

    def tick(self) -> None:
        """Let in who waits, also where no job has ended: memory may have been given back."""
        if self._full and not self._lives.spiller.is_busy:
            self.let_in()

    def admit(
        self,
        connection: Connection,
        object_id: bytes,
        own: bytes,
        foreign: Packed,
        message: bytes | None,
        counters: list[int],
        transient: bool = False,
        owned: bool = False,
    ) -> list[Any]:
        """Check a publication and make room for it; returns the event that enters it."""
        if not isinstance(object_id, bytes) or not (message is None or isinstance(message, bytes)):
            raise ProtocolError("an object's id and message are bytes")
        if object_id in self._lives.books.objects:
            raise ObjectExistsError(
                f"object {object_id.hex()} exists already; objects never change"
            )
        allocations = [(segment_id, packed) for segment_id, packed in foreign if packed]
        self._check_foreign(allocations)
        if (own or owned) and connection.segment is None:
            raise ProtocolError("it publishes without having attached a segment")
        if own:
            assert connection.segment is not None
            allocations.append((connection.segment, own))
        if len(counters) != len(COUNTERS) or any(type(count) is not int for count in counters):
            raise ProtocolError("counters are numbers of bytes")
        if any(not 0 <= count <= _MOST_COUNTED for count in counters):
            raise ProtocolError("counters are numbers of bytes that a machine can have")
        needed = self._lives.books.new_bytes(allocations)
        used = self._lives.books.bytes_stored
        if needed and used + needed > self._budget:
            raise StoreFullError(needed=needed, used=used, budget=self._budget)
        owner = connection.segment if owned else None
        body = [object_id, allocations, message, bool(transient), owner]
        return [*body, counters, time.time()]

    def _wait_for_room(self, connection: Connection, request_id: int, body: Sequence[Any]) -> Any:
        self._full.append((connection, request_id, list(body)))
        return DEFERRED

    def _put(
        self,
        connection: Connection,
        object_id: bytes,
        own: bytes,
        foreign: Packed,
        message: bytes | None,
        transient: bool,
        owned: bool,
        counters: list[int],
        adopted: Sequence[tuple[bytes, int]] = (),
    ) -> list[bytes]:
        new = self._adopt(connection, adopted)
        try:
            entry = (object_id, own, foreign, message, counters, transient, owned)
            self._lives.change("put", self.admit(connection, *entry))
            self._lives.entered(object_id, transient=transient)
        finally:
            for segment_id in new:
                self._lives.process_gone(segment_id)  # gone, too, if the put was refused
        return [self._supervisor_id()]

    def _adopt(self, connection: Connection, adopted: Sequence[tuple[bytes, int]]) -> list[bytes]:
        """Take over sealed segments, which have no process; returns those that are new."""
        new = []
        fds = [connection.reader.take_descriptor() for _ in adopted]
        try:
            for (segment_id, size), fd in zip(adopted, fds, strict=True):
                check_segment(segment_id, fd, size, sealed=True)
                if segment_id not in self._lives.books.segments:
                    self._lives.descriptors[segment_id] = os.dup(fd)
                    self._lives.change("segment", [segment_id, size, NO_PROCESS, 0])
                    new.append(segment_id)
        finally:
            for fd in fds:
                os.close(fd)
        return new

    def _check_foreign(self, allocations: Packed) -> None:
        for segment_id, packed in allocations:
            segment = self._lives.books.segments.get(segment_id)
            if not packed or (segment is not None and segment.sealed):
                continue
            if segment is None or not segment.references.contains(packed):
                raise ObjectLostError(
                    f"an allocation of segment {segment_id.hex()} is not in the store any more"
                )
