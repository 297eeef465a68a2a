"""How long objects live: held, idle, deleted, gone.

An object that is deleted while it is held goes with its last hold. After a crash of the store
nothing that was deleted goes before all clients that live on have come back and said what they
hold: until then such objects are *orphans*, of which nobody knows whether they are held.
"""

import time

from zerrow_store.budget import HIGH_WATERMARK
from zerrow_store.errors import ObjectNotFoundError
from zerrow_store.protocol import events, notices
from zerrow_store.protocol.fields import Moves
from zerrow_store.server.connection import Connection
from zerrow_store.server.idle_objects import IdleObjects
from zerrow_store.server.object_table import Object
from zerrow_store.server.page_cache import PageCache
from zerrow_store.server.state import State

_SOON_SECONDS = 10.0
"""How long puts wait, after a restart, for clients to connect again."""


class Lifetimes:
    """See the module. It has many methods because each step of an object's life is one."""

    def __init__(self, state: State, idle: IdleObjects, page_cache: PageCache) -> None:
        self._state = state
        self._table = state.table
        self._effects = state.effects
        self._idle = idle
        self._page_cache = page_cache
        self._high = int(HIGH_WATERMARK * state.budget)
        self._orphaned: set[bytes] = set()
        self._returning_until = 0.0

    # --- objects come ---

    def restored(self) -> None:
        """Take up the objects of a store that was started again: nobody is known to hold any."""
        self._returning_until = time.monotonic() + _SOON_SECONDS
        for object_id, entry in self._table.objects.items():
            if not entry.is_elsewhere:
                self._idle.add(object_id)
            if entry.deleted or entry.transient:
                self._orphaned.add(object_id)

    def entered(self, object_id: bytes) -> None:
        """Note that an object is new, and nobody holds it yet."""
        self._notify_owner(object_id)
        if not self._table.objects[object_id].is_elsewhere:
            self._idle.add(object_id)

    def add_copy(self, object_id: bytes, landed: bytes, moves: Moves, node: bytes | None) -> None:
        """Enter another machine's object, in the bytes of `landed`; nobody holds it yet."""
        allocations = self._table.objects[landed].allocations
        self._state.change(events.CopyAdded(object_id, allocations, moves, node, time.time()))
        self._idle.add(object_id)

    def owner_came_back(self, segment_id: bytes) -> None:
        """Tell a process that has attached its segment again of all objects that it may not know to
        be its own.
        """
        for object_id, entry in self._table.objects.items():
            if entry.owner == segment_id:
                self._notify_owner(object_id)

    def _notify_owner(self, object_id: bytes) -> None:
        entry = self._table.objects[object_id]
        if entry.carrier is None or entry.owner is None or entry.deleted:
            return
        for connection in self._state.attached.get(entry.owner, ()):
            if connection.owner_id:
                self._effects.notify(connection, notices.ItemStored(object_id, entry.carrier))

    # --- holds ---

    def take_hold(self, connection: Connection, object_id: bytes) -> Object:
        """Hold an object for a connection. Raises ObjectNotFoundError."""
        entry = self._table.objects.get(object_id)
        if entry is None or entry.is_elsewhere:
            raise ObjectNotFoundError(object_id)
        # A client that comes back may hold what was deleted meanwhile.
        if entry.deleted and not (
            object_id in self._orphaned or self._state.may_hold(connection, object_id)
        ):
            raise ObjectNotFoundError(object_id)
        connection.holds[object_id] += 1
        self._state.holders[object_id] += 1
        self._orphaned.discard(object_id)
        self._idle.discard(object_id)
        self._page_cache.forget(object_id)
        return entry

    def release(self, object_id: bytes, count: int) -> None:
        """Note that holds of an object have ended."""
        holders = self._state.holders
        holders[object_id] -= count
        if holders[object_id] > 0:
            return
        del holders[object_id]
        entry = self._table.objects.get(object_id)
        if entry is None:
            return
        if entry.deleted or entry.transient:
            self._end(object_id)
        else:
            self._idle.add(object_id)
            self._page_cache.left(object_id)
            if self._page_cache.nbytes:
                self.trim_page_cache(self._state.resident())

    def trim_page_cache(self, resident: int) -> None:
        """Let the page cache have what `resident` bytes leave of the budget."""
        self._page_cache.trim(self._high - resident)

    # --- objects go ---

    def delete(self, object_id: bytes) -> None:
        """Delete an object: at once, or when its last hold ends."""
        entry = self._table.objects.get(object_id)
        if entry is None or entry.deleted:
            return
        self._notify_agents(object_id)
        if self._state.holders[object_id]:
            self._state.change(events.ObjectHidden(object_id))
            return
        if not self._state.all_returned():
            self._state.change(events.ObjectHidden(object_id))
        self._end(object_id)

    def replaced(self, object_id: bytes) -> None:
        """End an object that was hidden when another one took its name."""
        self._notify_agents(object_id)
        if not self._state.holders[object_id]:
            self._end(object_id)

    def _notify_agents(self, object_id: bytes) -> None:
        """Tell the agent, so that other machines drop the object, too."""
        watched = self._state.watched
        if self._table.objects[object_id].proxy or object_id in watched:
            watched.discard(object_id)
            self._effects.notify_all(notices.Removed(object_id), role="agent")

    def drop_copy(self, object_id: bytes) -> None:
        """Give up the bytes of another machine's object, which nobody holds."""
        if not self._table.objects[object_id].proxy:
            self._remove(object_id)
            return
        self._idle.discard(object_id)
        self._state.give_back(self._state.change(events.CopyRemoved(object_id)))

    def end_orphans(self) -> None:
        """Remove what was deleted and nobody holds: all clients have reported their holds."""
        while self._orphaned:
            self._remove(self._orphaned.pop())

    def some_return_soon(self) -> bool:
        """Whether it is worth waiting for clients that a restarted store had before."""
        return not self._state.all_returned() and time.monotonic() < self._returning_until

    def _end(self, object_id: bytes) -> None:
        """Remove an unheld object, once all clients have reported their holds."""
        if self._state.all_returned():
            self._remove(object_id)
        else:
            self._orphaned.add(object_id)

    def _remove(self, object_id: bytes) -> None:
        self._orphaned.discard(object_id)
        self._idle.discard(object_id)
        self._page_cache.forget(object_id)
        self._state.give_back(self._state.change(events.ObjectRemoved(object_id)))
