"""How long segments and objects live: what is held, idle, deleted, or left by ended processes.

An object that is deleted while held goes with its last holder. A process that made a segment is
watched through a pidfd: at its end its owned objects go, and what nothing refers to is punched.
After a crash of the store nothing is evicted, and nothing that was deleted goes, before all readers
that live on have come back and said what they hold.
"""

import os
import selectors
import time
from collections import Counter, defaultdict
from typing import Any

from zerrow_store.budget import HIGH_WATERMARK
from zerrow_store.errors import ObjectLostError, ObjectNotFoundError
from zerrow_store.policy import Policy
from zerrow_store.processes import open_pidfd, start_time
from zerrow_store.protocol import events, notices
from zerrow_store.protocol.fields import Moves
from zerrow_store.protocol.places import NO_PROCESS, Freed
from zerrow_store.segments import resident_bytes
from zerrow_store.server.connection import Connection
from zerrow_store.server.effects import Effects
from zerrow_store.server.eviction import Evictor
from zerrow_store.server.object_table import Object
from zerrow_store.server.page_cache import PageCache
from zerrow_store.server.readers import Readers
from zerrow_store.server.replica import Replica, descriptors_of
from zerrow_store.server.spill import Spiller, spill_directory

_SOON_SECONDS = 10.0
"""So long those wait for readers to come back who need memory, or an owner."""


class Lifetimes:
    """The object table, the segments' descriptors, and who holds what.

    owners: the connections of the process that made a segment. living: the segments of processes
    that have not ended; dead: those whose memory is this server's to give back. watched: objects
    of which the transfer agent hears when they go, beside those that have a proxy here.
    """

    def __init__(
        self,
        budget: int,
        policy: Policy,
        selector: selectors.BaseSelector,
        effects: Effects,
    ) -> None:
        self.replica = Replica()
        self.table, self.descriptors = self.replica.table, self.replica.descriptors
        self.owners: defaultdict[bytes, set[Connection]] = defaultdict(set)
        self.dead: set[bytes] = set()
        self.living: set[bytes] = set()
        self.watched: set[bytes] = set()
        self.holders: Counter[bytes] = Counter()
        self.page_cache = PageCache(
            self.table,
            self.descriptors,
            is_first_read=lambda file_id: self.evictor.asked_back(file_id),
        )
        self._high = int(HIGH_WATERMARK * budget)
        self._orphaned: set[bytes] = set()
        self._returning_until = 0.0
        self._selector = selector
        self._effects = effects
        self.spiller = Spiller(
            spill_directory(),
            self.table,
            self.descriptors,
            self.dead,
            is_idle=self._is_idle,
            change=self.change,
            give_back=self.give_back,
        )
        self.evictor = Evictor(
            self.table,
            self.spiller,
            policy,
            budget,
            delete=self.delete,
            drop_copy=self._drop_copy,
            all_returned=self.all_returned,
        )
        self.readers = Readers(
            self.table,
            selector,
            change=self.change,
            release=self.release,
            all_returned=self._end_orphans,
        )

    def restored(self) -> None:
        """The object table has come from the supervisor, after a crash: readers are about to
        return."""
        self._returning_until = time.monotonic() + _SOON_SECONDS
        for object_id, entry in self.table.objects.items():
            if not entry.is_elsewhere:
                self.evictor.idle(object_id)
            if entry.deleted or entry.transient:
                self._orphaned.add(object_id)
        self.readers.restored()
        for segment_id in list(self.table.segments):
            self._watch_again(segment_id)
        if self.all_returned():
            self._end_orphans()

    def enter_segment(self, segment_id: bytes, fd: int, size: int, pid: int) -> None:
        """Take a process's segment in; from then on the descriptor is the store's.

        Raises ObjectLostError if the process has ended, OSError if its end could not be seen.
        """
        pidfd = open_pidfd(pid)
        if pidfd is None:
            raise ObjectLostError(f"process {pid}, which made the segment, has ended")
        self._watch(segment_id, pidfd)
        self.descriptors[segment_id] = fd
        self.change(events.SegmentAdded(segment_id, size, pid, start_time(pid)))

    def entered(self, object_id: bytes) -> None:
        """An object is new, and nobody holds it yet."""
        self._tell_owner(object_id)
        if not self.table.objects[object_id].is_elsewhere:
            self.evictor.idle(object_id)

    def land(self, object_id: bytes, landed: bytes, moves: Moves, node: bytes | None) -> None:
        """Another machine's object is here, in the bytes of `landed`, and nobody holds it yet."""
        allocations = self.table.objects[landed].allocations
        self.change(events.CopyAdded(object_id, allocations, moves, node, time.time()))
        self.evictor.idle(object_id)

    def _drop_copy(self, object_id: bytes) -> None:
        """Give up the bytes of another machine's object, which nobody holds."""
        if not self.table.objects[object_id].proxy:
            self._remove(object_id)
            return
        self.evictor.busy(object_id)
        self.give_back(self.change(events.CopyRemoved(object_id)))

    def owner_came_back(self, segment_id: bytes) -> None:
        """A process has attached its segment again: tell it of all objects that it may not know to
        be its own.
        """
        for object_id, entry in self.table.objects.items():
            if entry.owner == segment_id:
                self._tell_owner(object_id)

    def _tell_owner(self, object_id: bytes) -> None:
        entry = self.table.objects[object_id]
        if entry.carrier is None or entry.owner is None or entry.deleted:
            return
        for connection in self.owners.get(entry.owner, ()):
            if connection.owner_id:
                self._effects.notify(connection, notices.Adopt(object_id, entry.carrier))

    def change(self, event: events.Event) -> Freed:
        """Apply an event here and at the supervisors."""
        freed = self.table.apply(event)
        self._effects.replicate(event, descriptors_of(event, self.descriptors))
        return freed

    def take_hold(self, connection: Connection, object_id: bytes) -> Object:
        """Hold an object for a connection. Raises ObjectNotFoundError."""
        entry = self.table.objects.get(object_id)
        if entry is None or entry.is_elsewhere:
            raise ObjectNotFoundError(object_id)
        # A reader that comes back may hold what was deleted meanwhile.
        if entry.deleted and not (
            object_id in self._orphaned or self.readers.may_hold(connection, object_id)
        ):
            raise ObjectNotFoundError(object_id)
        connection.holds[object_id] += 1
        self.holders[object_id] += 1
        self._orphaned.discard(object_id)
        self.evictor.busy(object_id)
        self.page_cache.forget(object_id)
        return entry

    def release(self, object_id: bytes, count: int) -> None:
        """Note that holds of an object have ended."""
        self.holders[object_id] -= count
        if self.holders[object_id] > 0:
            return
        del self.holders[object_id]
        entry = self.table.objects.get(object_id)
        if entry is None:
            return
        if entry.deleted or entry.transient:
            self._end(object_id)
        else:
            self.evictor.idle(object_id)
            self.page_cache.left(object_id)
            if self.page_cache.nbytes:
                self.trim_page_cache(self.resident())

    def trim_page_cache(self, resident: int) -> None:
        """Let the page cache have what `resident` bytes leave of the budget."""
        self.page_cache.trim(self._high - resident)

    def note_read_ahead(self) -> None:
        """Learn from what was read ahead since the last call."""
        while self.page_cache.read:
            self.evictor.read_ahead(*self.page_cache.read.popleft())

    def delete(self, object_id: bytes) -> None:
        """Delete an object: at once, or when its last holder is gone."""
        entry = self.table.objects.get(object_id)
        if entry is None or entry.deleted:
            return
        if entry.proxy or object_id in self.watched:
            self.watched.discard(object_id)
            # Other machines have it, or copies of it, which are to go there.
            self._effects.notify_all(notices.Removed(object_id), role="agent")
        if self.holders[object_id]:
            self.change(events.ObjectHidden(object_id))
            return
        if not self.all_returned():
            self.change(events.ObjectHidden(object_id))
        self._end(object_id)

    def _end(self, object_id: bytes) -> None:
        """Remove an object that nobody is known to hold, as soon as that is known of everybody."""
        if self.all_returned():
            self._remove(object_id)
        else:
            self._orphaned.add(object_id)

    def _end_orphans(self) -> None:
        while self._orphaned:
            self._remove(self._orphaned.pop())

    def _remove(self, object_id: bytes) -> None:
        self._orphaned.discard(object_id)
        self.evictor.busy(object_id)
        self.page_cache.forget(object_id)
        self.give_back(self.change(events.ObjectRemoved(object_id)))

    def give_back(self, freed: Freed) -> None:
        """Tell the owners what nothing refers to any more; of the dead it is punched here."""
        for segment_id, offsets in freed:
            if segment_id in self.dead:
                self._punch_gaps(segment_id)
                continue
            # Each client of the owning process unpins what it has pinned itself.
            for owner in self.owners.get(segment_id, ()):
                self._effects.notify(owner, notices.Freed(offsets))

    def all_returned(self) -> bool:
        """Whether all readers that a restarted store had before have come back, or ended."""
        return self.readers.are_known

    def some_return_soon(self) -> bool:
        """Whether it is worth waiting for readers that a restarted store had before."""
        return not self.all_returned() and time.monotonic() < self._returning_until

    def dropped(self, connection: Connection) -> None:
        """Note that a connection has ended."""
        if connection.segment is not None:
            self.owners[connection.segment].discard(connection)
            if not self.owners[connection.segment]:
                del self.owners[connection.segment]

    def _is_idle(self, object_id: bytes) -> bool:
        return object_id in self.table.objects and not self.holders[object_id]

    def resident(self) -> int:
        """Bytes that all segments have in memory, published or not."""
        segments = self.table.segments
        return sum(
            self.resident_of(segment_id)
            for segment_id in self.descriptors
            if not segments[segment_id].spilled
        )

    def resident_of(self, segment_id: bytes) -> int:
        """Bytes that a segment has in memory, published or not."""
        return resident_bytes(self.descriptors[segment_id])

    # --- processes that end ---

    def _watch_again(self, segment_id: bytes) -> None:
        """After a restart: see when the process that made a segment ends, if it has not."""
        segment = self.table.segments[segment_id]
        if segment.pid == NO_PROCESS:
            self.process_gone(segment_id)
            return
        pidfd = open_pidfd(segment.pid)
        if pidfd is None or start_time(segment.pid) != segment.started:
            if pidfd is not None:
                os.close(pidfd)
            self.process_gone(segment_id)
            return
        self._watch(segment_id, pidfd)

    def _watch(self, segment_id: bytes, pidfd: int) -> None:
        def gone(*_: Any) -> None:
            self._selector.unregister(pidfd)
            os.close(pidfd)
            self.process_gone(segment_id)

        try:
            self._selector.register(pidfd, selectors.EVENT_READ, gone)
        except OSError:
            os.close(pidfd)
            raise
        self.living.add(segment_id)

    def process_gone(self, segment_id: bytes) -> None:
        """End what belongs to a segment's process, which has ended."""
        self.living.discard(segment_id)
        for object_id in [o for o, e in self.table.objects.items() if e.owner == segment_id]:
            self.delete(object_id)
        self.dead.add(segment_id)
        self._punch_gaps(segment_id)

    def _punch_gaps(self, segment_id: bytes) -> None:
        """Give back a dead process's memory that no object refers to; all of it ends the
        segment.
        """
        segment = self.table.segments[segment_id]
        fd = self.descriptors[segment_id]
        if not segment.references:
            self.change(events.SegmentRemoved(segment_id))
            self._effects.close(self.descriptors.pop(segment_id))
            self.dead.discard(segment_id)
            self._effects.notify_all(notices.SegmentGone(segment_id))
            return
        # Another store may refer to what this one does not; what is sealed goes as a whole.
        if segment.shared or segment.sealed:
            return
        for start, end in segment.references.gaps(segment.size):
            self._effects.punch(fd, start, end)
