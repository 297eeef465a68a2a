"""The state of a server.

The object table is changed by events alone, and here alone: an event that is applied is replicated,
too. What else stands here is not replicated: it is known again once clients have come back. Each
part of it has one room that changes it: `lifetimes` the holders, `readers` the absent clients,
`segment_processes` the living and the dead segments.
"""

from collections import Counter, defaultdict

from zerrow_store.protocol import events, notices
from zerrow_store.protocol.places import Freed
from zerrow_store.segments import resident_bytes
from zerrow_store.server.connection import Connection
from zerrow_store.server.effects import Effects
from zerrow_store.server.replica import Replica, descriptors_of


class Absent:
    """A client without a connection.

    holds: what it held; None if nobody knows. pidfd: by which its process's end is seen; None if
    there was no descriptor left for it.
    """

    def __init__(self, holds: Counter[bytes] | None) -> None:
        self.holds = holds
        self.pidfd: int | None = None


class State:
    """See the module.

    Attributes
    ----------
    effects
        What is to happen outside.
    budget
        The bytes that the store may hold in memory.
    holders
        How many holds there are of each object.
    attached
        The connections of the process that made a segment, by segment.
    living
        The segments of processes that have not ended.
    dead
        Segments of ended processes, whose free memory the server punches.
    watched
        Objects of which the transfer agent hears when they go, beside those that have a proxy here.
    absent
        Clients without a connection, by identity.
    """

    def __init__(self, effects: Effects, budget: int) -> None:
        self.effects = effects
        self.budget = budget
        self.replica = Replica()
        self.table, self.descriptors = self.replica.table, self.replica.descriptors
        self.holders: Counter[bytes] = Counter()
        self.attached: defaultdict[bytes, set[Connection]] = defaultdict(set)
        self.living: set[bytes] = set()
        self.dead: set[bytes] = set()
        self.watched: set[bytes] = set()
        self.absent: dict[bytes, Absent] = {}

    # --- changes ---

    def change(self, event: events.Event) -> Freed:
        """Apply an event here and at the supervisors; returns what nothing refers to any more."""
        freed = self.table.apply(event)
        self.effects.replicate(event, descriptors_of(event, self.descriptors))
        return freed

    def add_segment(self, event: events.SegmentAdded, descriptor: int) -> None:
        """Enter a segment, whose descriptor is the state's from then on."""
        self.descriptors[event.segment_id] = descriptor
        self.change(event)

    def mark_dead(self, segment_id: bytes) -> None:
        """Note that the memory of a segment is this server's to give back from now on."""
        self.dead.add(segment_id)

    def attach(self, connection: Connection, segment_id: bytes) -> None:
        """Note that a connection is of the process that made a segment."""
        connection.segment = segment_id
        self.attached[segment_id].add(connection)

    def detach(self, connection: Connection) -> None:
        """Note that a connection has ended."""
        if connection.segment is not None:
            self.attached[connection.segment].discard(connection)
            if not self.attached[connection.segment]:
                del self.attached[connection.segment]

    def give_back(self, freed: Freed) -> None:
        """Tell the producers what nothing refers to any more; what the dead had goes at once."""
        for segment_id, offsets in freed:
            if segment_id in self.dead:
                self.give_back_gaps(segment_id)
                continue
            # Each client of the producer unpins what it has pinned itself.
            for connection in self.attached.get(segment_id, ()):
                self.effects.notify(connection, notices.Freed(offsets))

    def give_back_gaps(self, segment_id: bytes) -> None:
        """Punch what no object refers to out of a dead segment; if that is all, end the segment."""
        segment = self.table.segments[segment_id]
        if not segment.references:
            self.change(events.SegmentRemoved(segment_id))
            self.effects.close(self.descriptors.pop(segment_id))
            self.dead.discard(segment_id)
            self.effects.notify_all(notices.SegmentGone(segment_id))
            return
        # Another store may refer to what this one does not; what is sealed goes as a whole.
        if segment.shared or segment.sealed:
            return
        for start, end in segment.references.gaps(segment.size):
            self.effects.punch(self.descriptors[segment_id], start, end)

    # --- questions ---

    def is_idle(self, object_id: bytes) -> bool:
        """Whether an object is there and nobody holds it."""
        return object_id in self.table.objects and not self.holders[object_id]

    def all_returned(self) -> bool:
        """Whether all clients that a restarted store had before have come back, or ended."""
        return all(absent.holds is not None for absent in self.absent.values())

    def may_hold(self, connection: Connection, object_id: bytes) -> bool:
        """Whether a client that is connecting again held an object while it was absent."""
        absent = self.absent.get(connection.identity)
        return absent is not None and absent.holds is not None and object_id in absent.holds

    def resident(self) -> int:
        """Return the bytes that all segments have in memory, published or not."""
        segments = self.table.segments
        return sum(
            self.resident_of(segment_id)
            for segment_id in self.descriptors
            if not segments[segment_id].spilled
        )

    def resident_of(self, segment_id: bytes) -> int:
        """Return the bytes that a segment has in memory, published or not."""
        return resident_bytes(self.descriptors[segment_id])
