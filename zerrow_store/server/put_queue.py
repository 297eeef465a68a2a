"""The queue of puts: checked, admitted when they fit, deferred while room is made for them."""

import itertools
import os
import time
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from zerrow_store.errors import (
    NoOwnerError,
    ObjectExistsError,
    ObjectLostError,
    ProtocolError,
    StoreFullError,
)
from zerrow_store.protocol import events
from zerrow_store.protocol import messages as m
from zerrow_store.protocol.places import NO_PROCESS, Packed
from zerrow_store.segments import check_segment
from zerrow_store.server.connection import DEFERRED, Call, Connection
from zerrow_store.server.copies import Copies
from zerrow_store.server.eviction import Evictor
from zerrow_store.server.lifetimes import Lifetimes
from zerrow_store.server.segment_processes import SegmentProcesses
from zerrow_store.server.state import State


@dataclass(eq=False)
class Put:
    """A put that was asked for.

    Attributes
    ----------
    arrival
        Its number, over all connections.
    adopted
        The segments without a process that came with it.
    owner
        The segment of the process with whose end the object goes.
    node
        The machine whose store says when the object goes.
    withdrawn
        Whether there is no owner, or the owner has deleted the object.
    """

    arrival: int
    call: Call
    request: m.Put
    adopted: list[bytes]
    owner: bytes | None = None
    node: bytes | None = None
    withdrawn: bool = False
    waits: bool = False
    has_waited: bool = False


class PutQueue:
    """See the module. waited: how many puts have waited."""

    def __init__(
        self,
        state: State,
        lifetimes: Lifetimes,
        processes: SegmentProcesses,
        evictor: Evictor,
    ) -> None:
        self._state = state
        self._table = state.table
        self._effects = state.effects
        self._budget = state.budget
        self._lifetimes = lifetimes
        self._processes = processes
        self._evictor = evictor
        self._arrivals = itertools.count()
        self.copies = Copies()
        self._full: list[Put] = []
        self._adopted: Counter[bytes] = Counter()
        self.waited = 0

    def received(self, call: Call, request: m.Put) -> Put:
        """Take over the segments that came with a put, and return the put: it is to be entered."""
        return Put(next(self._arrivals), call, request, self.adopt(call, request.adopted))

    def enter(self, put: Put) -> Any:
        """Enter an object, or defer its put while room is made.

        Puts are admitted in order of arrival, except that a connection that holds objects precedes
        one that holds none: finishing its task frees its inputs.

        Raises NoOwnerError for a put that was withdrawn.
        """
        put.waits = False
        holds = bool(put.call.connection.holds)
        behind = any(bool(each.call.connection.holds) >= holds for each in self._full)
        try:
            if put.withdrawn:
                raise NoOwnerError("the owner is not known here, or has let go of the object")
            if behind and self._brings_bytes(put):
                return self._wait_for_room(put)
            return self._enter(put)
        finally:
            if not put.waits:
                self.settle(put.adopted)

    def retry(self, put: Put) -> None:
        """Enter an object whose put was deferred, and answer that, unless it waits again."""
        try:
            reply = self.enter(put)
        except Exception as error:
            self._effects.refuse(put.call, error)
            return
        if reply is not DEFERRED:
            self._effects.reply(put.call, reply)

    def let_in(self) -> None:
        """Retry the puts that wait, in the order of `enter`, until one has to wait again."""
        waiting = deque(sorted(self._full, key=lambda p: (not p.call.connection.holds, p.arrival)))
        self._full.clear()
        while waiting and not self._full:
            self.retry(waiting.popleft())
        self._full.extend(waiting)

    def withdraw(self, object_ids: Iterable[bytes]) -> None:
        """Note that objects were deleted, some of which may still wait to be entered."""
        if self._full:
            deleted = set(object_ids)
            for put in self._full:
                put.withdrawn |= put.request.object_id in deleted

    def dropped(self, connection: Connection) -> None:
        """Forget the puts of a connection that has ended."""
        ended = [put for put in self._full if put.call.connection is connection]
        self._full = [put for put in self._full if put.call.connection is not connection]
        for put in ended:
            self.settle(put.adopted)

    def tick(self) -> None:
        """Retry the puts that wait, unless objects are being spilled: room may have been made."""
        if self._full and not self._evictor.is_writing:
            self.let_in()

    def admit(
        self,
        connection: Connection,
        publication: m.Put | m.Column,
        *,
        transient: bool = False,
        owner: bytes | None = None,
    ) -> events.ObjectAdded:
        """Check a publication and that there is room for it; returns the event that enters it."""
        object_id, own = publication.object_id, publication.own
        self.check_new(object_id)
        allocations = [(segment_id, packed) for segment_id, packed in publication.foreign if packed]
        self.check_own(connection, own)
        if owner is not None and owner not in self._state.living:
            raise NoOwnerError("the process that owns the object has ended")
        self._check_foreign(allocations)
        if own:
            assert connection.segment is not None
            allocations.append((connection.segment, own))
        needed = self._new_bytes(allocations)
        used = self._table.bytes_stored
        if needed and used + needed > self._budget:
            raise StoreFullError(needed=needed, used=used, budget=self._budget)
        message, counters = publication.message, publication.counters
        return events.ObjectAdded(
            object_id, allocations, message, transient, owner, counters, time.time()
        )

    def check_new(self, object_id: bytes) -> None:
        """Raise ObjectExistsError for an object that is there."""
        if object_id in self._table.objects:
            raise ObjectExistsError(
                f"object {object_id.hex()} exists already; objects never change"
            )

    def check_own(self, connection: Connection, own: bytes) -> None:
        """Raise ProtocolError for allocations that the process's segment cannot have."""
        if not own:
            return
        if connection.segment is None:
            raise ProtocolError("it publishes without having attached a segment")
        # What no object refers to yet is given back at the process's end.
        if connection.segment not in self._state.living:
            raise ObjectLostError("the process that made the segment has ended")
        self._new_bytes([(connection.segment, own)])

    def _new_bytes(self, allocations: Packed) -> int:
        try:
            return self._table.new_bytes(allocations)
        except ValueError as error:
            raise ProtocolError(f"it publishes what cannot be: {error}") from None

    def _wait_for_room(self, put: Put) -> Any:
        self.waited += not put.has_waited
        put.waits = put.has_waited = True
        self._full.append(put)
        return DEFERRED

    def _brings_bytes(self, put: Put) -> bool:
        connection, own = put.call.connection, put.request.own
        self.check_own(connection, own)
        return bool(put.adopted or (own and self._new_bytes([(connection.segment or b"", own)])))

    def _enter(self, put: Put) -> Any:
        try:
            return self._put(put)
        except StoreFullError as error:
            if error.needed > self._budget:
                raise
            if self._lifetimes.some_return_soon():
                return self._wait_for_room(put)
            if not self._evictor.make_room(error.needed):
                raise
        try:  # what was dropped may be enough
            return self._put(put)
        except StoreFullError:
            if not self._evictor.is_writing:
                raise
        return self._wait_for_room(put)

    def _put(self, put: Put) -> bool:
        """Enter an object; returns whether the connection that puts it holds it now."""
        request, transient = put.request, put.request.transient
        event = self.admit(put.call.connection, request, transient=transient, owner=put.owner)
        carrier = request.carrier
        if carrier is not None:
            event.carrier = carrier.reference if carrier.owner_id else None
            event.proxy = put.call.connection.role == "agent"
            event.reference = carrier.reference
        event.node, event.pid, event.name = put.node, put.call.connection.pid, request.name
        replaced = None if event.name is None else self._table.names.get(event.name)
        self._state.change(event)
        if replaced is not None:
            self._lifetimes.replaced(replaced)
        self.copies.add(request.object_id, event.reference, event.pid, request.counters[2])
        self._lifetimes.entered(request.object_id)
        if transient:
            self._lifetimes.take_hold(put.call.connection, request.object_id)
        return transient

    def adopt(self, call: Call, adopted: Sequence[tuple[bytes, int]]) -> list[bytes]:
        """Take over sealed segments, which have no process; returns their ids, to be settled."""
        for (_, size), fd in zip(adopted, call.descriptors, strict=True):
            check_segment(fd, size, sealed=True)
        ids: list[bytes] = []
        try:
            for (segment_id, size), fd in zip(adopted, call.descriptors, strict=True):
                if segment_id not in self._table.segments:
                    added = events.SegmentAdded(segment_id, size, NO_PROCESS, 0)
                    self._state.add_segment(added, os.dup(fd))
                    self._adopted[segment_id] = 0
                if segment_id in self._adopted:
                    self._adopted[segment_id] += 1
                    ids.append(segment_id)
        except OSError:  # out of descriptors
            self.settle(ids)
            raise
        return ids

    def settle(self, adopted: list[bytes]) -> None:
        """Let go of segments whose put was entered or refused: those without objects end."""
        for segment_id in adopted:
            self._adopted[segment_id] -= 1
            if not self._adopted[segment_id]:
                del self._adopted[segment_id]
                self._processes.ended(segment_id)

    def _check_foreign(self, allocations: Packed) -> None:
        for segment_id, packed in allocations:
            segment = self._table.segments.get(segment_id)
            if not packed or (segment is not None and segment.sealed):
                continue
            if segment is None or not segment.references.contains(packed):
                raise ObjectLostError(
                    f"an allocation of segment {segment_id.hex()} is not in the store any more"
                )
