"""The check of publications before they are entered.

A publication has to be sound, and there has to be room for it.
"""

import time

from zerrow_store.errors import (
    NoOwnerError,
    ObjectExistsError,
    ObjectLostError,
    ProtocolError,
    StoreFullError,
)
from zerrow_store.protocol import events
from zerrow_store.protocol import messages as m
from zerrow_store.protocol.places import Packed
from zerrow_store.server.connection import Connection
from zerrow_store.server.state import State


class Admission:
    """Checks publications against the state, and changes nothing."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._table = state.table
        self._budget = state.budget

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
        needed = self.new_bytes(allocations)
        used = self._table.bytes_stored
        if needed and used + needed > self._budget:
            raise StoreFullError(needed=needed, used=used, budget=self._budget)
        return events.ObjectAdded(
            object_id=object_id,
            allocations=allocations,
            message=publication.message,
            transient=transient,
            owner=owner,
            counters=publication.counters,
            created=time.time(),
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
        self.new_bytes([(connection.segment, own)])

    def new_bytes(self, allocations: Packed) -> int:
        """Return how many bytes the store would have more. Raises ProtocolError for allocations
        that cannot be.
        """
        try:
            return self._table.new_bytes(allocations)
        except ValueError as error:
            raise ProtocolError(f"invalid allocations: {error}") from None

    def _check_foreign(self, allocations: Packed) -> None:
        for segment_id, packed in allocations:
            segment = self._table.segments.get(segment_id)
            if not packed or (segment is not None and segment.sealed):
                continue
            if segment is None or not segment.references.contains(packed):
                raise ObjectLostError(
                    f"an allocation of segment {segment_id.hex()} is not in the store any more"
                )
