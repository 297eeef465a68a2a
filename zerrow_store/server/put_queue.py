"""The queue of puts: entered when they fit, deferred while room is made for them."""

import itertools
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from zerrow_store.errors import NoOwnerError, StoreFullError
from zerrow_store.protocol import messages as m
from zerrow_store.server.admission import Admission
from zerrow_store.server.connection import DEFERRED, Call, Connection
from zerrow_store.server.copied_tables import CopiedTables
from zerrow_store.server.eviction import Evictor
from zerrow_store.server.lifetimes import Lifetimes
from zerrow_store.server.sealed_segments import SealedSegments
from zerrow_store.server.state import State


@dataclass(eq=False)
class Put:
    """A put that was asked for.

    Attributes
    ----------
    arrival
        Its number, over all connections.
    sealed
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
    sealed: list[bytes]
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
        evictor: Evictor,
        admission: Admission,
        sealed: SealedSegments,
    ) -> None:
        self._state = state
        self._table = state.table
        self._effects = state.effects
        self._budget = state.budget
        self._lifetimes = lifetimes
        self._evictor = evictor
        self._admission = admission
        self._sealed = sealed
        self._arrivals = itertools.count()
        self.copied = CopiedTables()
        self._full: list[Put] = []
        self.waited = 0

    def received(self, call: Call, request: m.Put) -> Put:
        """Take over the segments that came with a put, and return the put: it is to be entered."""
        return Put(
            next(self._arrivals), call, request, self._sealed.take_over(call, request.sealed)
        )

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
                raise NoOwnerError("no owner was found, or it has deleted the object already")
            if behind and self._brings_bytes(put):
                return self._wait_for_room(put)
            return self._enter(put)
        finally:
            if not put.waits:
                self._sealed.release(put.sealed)

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

    def forget(self, put: Put) -> None:
        """Let go of what came with a put that is never entered."""
        self._sealed.release(put.sealed)

    def dropped(self, connection: Connection) -> None:
        """Forget the puts of a connection that has ended."""
        ended = [put for put in self._full if put.call.connection is connection]
        self._full = [put for put in self._full if put.call.connection is not connection]
        for put in ended:
            self.forget(put)

    def tick(self) -> None:
        """Retry the puts that wait, unless objects are being spilled: room may have been made."""
        if self._full and not self._evictor.is_writing:
            self.let_in()

    def _wait_for_room(self, put: Put) -> Any:
        self.waited += not put.has_waited
        put.waits = put.has_waited = True
        self._full.append(put)
        return DEFERRED

    def _brings_bytes(self, put: Put) -> bool:
        connection, own = put.call.connection, put.request.own
        self._admission.check_own(connection, own)
        if put.sealed:
            return True
        return bool(own and self._admission.new_bytes([(connection.segment or b"", own)]))

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
        event = self._admission.admit(
            put.call.connection, request, transient=transient, owner=put.owner
        )
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
        self.copied.add(request.object_id, event.reference, event.pid, request.counters.copied)
        self._lifetimes.entered(request.object_id)
        if transient:
            self._lifetimes.take_hold(put.call.connection, request.object_id)
        return transient
