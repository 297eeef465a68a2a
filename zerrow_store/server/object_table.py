"""The object table of a node store.

It says which objects there are, and what they refer to. Pure data, changed only by events, so that
server and supervisor keep the same object table by applying the same events. The unit of reference
is the allocation: (segment, offset, size). Bytes are counted once, however many objects refer to
them.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from zerrow_store._ledger import Ledger
from zerrow_store.protocol import events
from zerrow_store.protocol.fields import MAX_COUNT, Counters, Moves
from zerrow_store.protocol.places import (
    NO_PROCESS,
    Checksum,
    Freed,
    Moved,
    Packed,
    moved_places,
    pack_pair,
    unpack,
)
from zerrow_store.server.decode_cache_index import DecodeCacheIndex, Entry


@dataclass
class Segment:
    """A memory file of a process; or a file of no process: a sealed memfd, or spilled bytes.

    Attributes
    ----------
    pid, started
        The process that made it; NO_PROCESS for a file of no process.
    shared
        Whether objects of other stores lie in it, too.
    bytes_stored
        The bytes that objects refer to.
    checksums
        Those of its allocations, if it lies on disk.
    references
        How many objects refer to each allocation.
    """

    size: int
    pid: int
    started: int
    shared: bool = False
    bytes_stored: int = 0
    checksums: list[Checksum] = field(default_factory=list)
    references: Ledger = field(default_factory=Ledger)

    @property
    def spilled(self) -> bool:
        """Whether it lies on disk."""
        return bool(self.checksums)

    @property
    def sealed(self) -> bool:
        """Whether nobody can change it: all of it may be referred to at any time."""
        return self.pid == NO_PROCESS and not self.spilled


@dataclass
class Object:
    """A published object. A deleted object stays until its last hold ends.

    Attributes
    ----------
    transient
        Whether it goes with its last hold.
    owner
        The segment of the process with whose end it goes.
    carrier
        The reference that carries it there, if the owner has to be told of the object.
    node
        The machine whose store says when it goes.
    proxy
        Whether it stands for an object of another machine that belongs to a process of this one.
    name
        See `ObjectTable.names`.
    copy
        Whether its bytes are those of another machine's object, and can be had there again.
    moved
        Where allocations that its message names lie, if they were spilled or are copies.
    bytes_spilled
        How many of its `nbytes` are on disk.
    reference, pid
        The reference that carries it, and the process that published it: for people to know.
    """

    allocations: Packed
    message: bytes | None
    created: float
    nbytes: int
    transient: bool
    owner: bytes | None
    carrier: bytes | None = None
    node: bytes | None = None
    proxy: bool = False
    name: str | None = None
    copy: bool = False
    deleted: bool = False
    moved: Moved = field(default_factory=dict)
    bytes_spilled: int = 0
    reference: bytes | None = None
    pid: int = NO_PROCESS

    @property
    def is_elsewhere(self) -> bool:
        """Whether none of its bytes are here."""
        return self.proxy and not self.copy

    def moves(self) -> Moves:
        """Return `moved` as it travels."""
        return [(*before, *now) for before, now in self.moved.items()]


class ObjectTable:
    """Segments, objects, readers and counters; see the module.

    It has many methods because each event has one, which applies it.

    Attributes
    ----------
    epoch
        What this object table is known by. A client that connects again sees by it whether the
        store knows what it knew.
    readers
        The pid and start of each client's process, by the client's identity.
    names
        The id of the object that has a name; deleted objects have none.
    """

    def __init__(self) -> None:
        self.epoch = b""
        self.segments: dict[bytes, Segment] = {}
        self.objects: dict[bytes, Object] = {}
        self.readers: dict[bytes, tuple[int, int]] = {}
        self.names: dict[str, bytes] = {}
        self.cache = DecodeCacheIndex()
        self.counters = Counters()
        self.bytes_stored = 0
        self.bytes_spilled = 0

    def apply(self, event: events.Event) -> Freed:
        """Apply an event; returns the allocations that nothing refers to any more."""
        return _APPLIERS[type(event)](self, event) or []

    def snapshot(self) -> Iterator[events.Event]:
        """Iterate over events that make an equal object table out of an empty one."""
        yield events.TableBegun(self.epoch)
        for identity, (pid, started) in self.readers.items():
            yield events.ReaderAdded(identity, pid, started)
        for segment_id, segment in self.segments.items():
            yield events.SegmentAdded(segment_id, segment.size, segment.pid, segment.started)
            if segment.shared:
                yield events.SegmentShared(segment_id)
            if segment.spilled:
                yield events.SegmentOnDisk(segment_id, segment.checksums)
        for object_id, entry in self.objects.items():
            yield from self._snapshot_of(object_id, entry)
        yield events.Counted(self.counters)

    def _snapshot_of(self, object_id: bytes, entry: Object) -> Iterator[events.Event]:
        added = events.ObjectAdded(
            object_id=object_id,
            allocations=[] if entry.copy else entry.allocations,
            message=entry.message,
            transient=entry.transient,
            owner=entry.owner,
            counters=Counters(),
            created=entry.created,
            carrier=entry.carrier,
            node=entry.node,
            proxy=entry.proxy,
            reference=entry.reference,
            pid=entry.pid,
            name=entry.name,
        )
        if cached := self.cache.entries.get(object_id):
            yield events.ColumnAdded(added, **vars(cached))
        elif entry.proxy or not entry.copy:
            yield added
        if entry.copy:
            moves, node, created = entry.moves(), entry.node, entry.created
            yield events.CopyAdded(object_id, entry.allocations, moves, node, created)
        elif entry.moved:
            yield events.MovesKnown(object_id, entry.moves())
        if entry.deleted:
            yield events.ObjectHidden(object_id)

    def has_results(self) -> bool:
        """Whether there are objects, but for what can be had again, and proxies."""
        cached = self.cache.entries
        return any(not (e.proxy or e.copy or o in cached) for o, e in self.objects.items())

    def new_bytes(self, allocations: Packed) -> int:
        """Return how many bytes of these allocations are not counted yet.

        Raises ValueError for an allocation outside of its segment or of a changed size.
        """
        segments = self.segments
        return sum(
            segments[segment_id].references.missing(ranges, segments[segment_id].size)
            for segment_id, ranges in allocations
        )

    # --- events ---

    def _begin(self, event: events.TableBegun) -> None:
        self.epoch = event.epoch

    def _add_reader(self, event: events.ReaderAdded) -> None:
        self.readers[event.identity] = event.pid, event.started

    def _remove_reader(self, event: events.ReaderRemoved) -> None:
        del self.readers[event.identity]

    def _add_segment(self, event: events.SegmentAdded) -> None:
        self.segments[event.segment_id] = Segment(event.size, event.pid, event.started)

    def _share_segment(self, event: events.SegmentShared) -> None:
        self.segments[event.segment_id].shared = True

    def _note_on_disk(self, event: events.SegmentOnDisk) -> None:
        self.segments[event.segment_id].checksums = event.checksums

    def _remove_segment(self, event: events.SegmentRemoved) -> None:
        del self.segments[event.segment_id]

    def _add_object(self, event: events.ObjectAdded) -> None:
        nbytes = spilled = 0
        for segment_id, ranges in event.allocations:
            named = self._refer(segment_id, ranges)
            nbytes += named
            spilled += named if self.segments[segment_id].spilled else 0
        entry = Object(
            event.allocations,
            event.message,
            event.created,
            nbytes,
            event.transient,
            event.owner,
            event.carrier,
            event.node,
            event.proxy,
        )
        entry.bytes_spilled = spilled
        entry.reference, entry.pid = event.reference, event.pid
        self.objects[event.object_id] = entry
        if event.name is not None:
            if event.name in self.names:
                self._hide(self.names[event.name])
            entry.name, self.names[event.name] = event.name, event.object_id
        self._add_counts(event.counters)

    def _add_column(self, event: events.ColumnAdded) -> None:
        self._add_object(event.added)
        unit, layout = event.unit, event.layout
        times = event.seconds, event.hits, event.used
        entry = Entry(event.file, event.path, unit, layout, *times)
        self.cache.add(event.added.object_id, entry)

    def _note_columns_read(self, event: events.ColumnsRead) -> None:
        self.cache.use(event.object_ids, event.when)

    def _hide_object(self, event: events.ObjectHidden) -> None:
        self._hide(event.object_id)

    def _hide(self, object_id: bytes) -> None:
        self.cache.forget(object_id)
        entry = self.objects[object_id]
        self._forget_name(entry)
        entry.deleted = True

    def _remove_object(self, event: events.ObjectRemoved) -> Freed:
        self.cache.forget(event.object_id)
        entry = self.objects.pop(event.object_id)
        self._forget_name(entry)
        return self._unrefer_all(entry.allocations)

    def _forget_name(self, entry: Object) -> None:
        if entry.name is not None:
            del self.names[entry.name]
            entry.name = None

    def _note_reference(self, event: events.ObjectsCarried) -> None:
        for object_id in event.object_ids:
            self.objects[object_id].reference = event.reference

    def _add_copy(self, event: events.CopyAdded) -> None:
        """The copy goes with its last holder if neither a proxy nor a node says when."""
        object_id, node = event.object_id, event.node
        if object_id not in self.objects:
            transient = node is None
            self.objects[object_id] = Object([], None, event.created, 0, transient, None, node=node)
        entry = self.objects[object_id]
        entry.copy, entry.allocations = True, event.allocations
        entry.nbytes = sum(self._refer(*allocations) for allocations in event.allocations)
        entry.moved = moved_places(event.moves)

    def _remove_copy(self, event: events.CopyRemoved) -> Freed:
        entry = self.objects[event.object_id]
        allocations, entry.allocations = entry.allocations, []
        entry.copy, entry.nbytes, entry.moved = False, 0, {}
        return self._unrefer_all(allocations)

    def _spill_allocations(self, event: events.AllocationsSpilled) -> Freed:
        segment_id, offsets, file_id = event.segment_id, event.offsets, event.file_id
        freed = []
        for object_id in event.object_ids:
            entry = self.objects[object_id]
            kept: Packed = []
            for segment, ranges in entry.allocations:
                if segment != segment_id:
                    kept.append((segment, ranges))
                    continue
                pairs = list(unpack(ranges))
                gone = b"".join(pack_pair(*pair) for pair in pairs if pair[0] in offsets)
                new = b"".join(pack_pair(offsets[o], size) for o, size in pairs if o in offsets)
                left = b"".join(pack_pair(*pair) for pair in pairs if pair[0] not in offsets)
                kept += [(s, r) for s, r in ((segment_id, left), (file_id, new)) if r]
                entry.bytes_spilled += self._refer(file_id, new)
                if unreferred := self._unrefer(segment_id, gone):
                    freed.append((segment_id, unreferred))
                entry.moved |= {
                    (segment_id, o): (file_id, offsets[o]) for o, _ in pairs if o in offsets
                }
            entry.allocations = kept
        return freed

    def _note_moves(self, event: events.MovesKnown) -> None:
        self.objects[event.object_id].moved = moved_places(event.moves)

    def _count(self, event: events.Counted) -> None:
        self._add_counts(event.counters)

    # --- references ---

    def _add_counts(self, counters: Counters) -> None:
        for name in Counters.__struct_fields__:
            total = getattr(self.counters, name) + getattr(counters, name)
            setattr(self.counters, name, min(total, MAX_COUNT))

    def _unrefer_all(self, allocations: Packed) -> Freed:
        freed = []
        for segment_id, ranges in allocations:
            if offsets := self._unrefer(segment_id, ranges):
                freed.append((segment_id, offsets))
        return freed

    def _refer(self, segment_id: bytes, ranges: bytes) -> int:
        segment = self.segments[segment_id]
        added, named = segment.references.add(ranges)
        segment.bytes_stored += added
        if segment.spilled:
            self.bytes_spilled += added
        else:
            self.bytes_stored += added
        return named

    def _unrefer(self, segment_id: bytes, ranges: bytes) -> bytes:
        segment = self.segments[segment_id]
        offsets, nbytes = segment.references.remove(ranges)
        segment.bytes_stored -= nbytes
        if segment.spilled:
            self.bytes_spilled -= nbytes
        else:
            self.bytes_stored -= nbytes
        return offsets


_APPLIERS: dict[type[events.Event], Callable[[ObjectTable, Any], Freed | None]] = {
    events.TableBegun: ObjectTable._begin,
    events.ReaderAdded: ObjectTable._add_reader,
    events.ReaderRemoved: ObjectTable._remove_reader,
    events.SegmentAdded: ObjectTable._add_segment,
    events.SegmentShared: ObjectTable._share_segment,
    events.SegmentOnDisk: ObjectTable._note_on_disk,
    events.SegmentRemoved: ObjectTable._remove_segment,
    events.ObjectAdded: ObjectTable._add_object,
    events.ObjectsCarried: ObjectTable._note_reference,
    events.ColumnAdded: ObjectTable._add_column,
    events.ColumnsRead: ObjectTable._note_columns_read,
    events.ObjectHidden: ObjectTable._hide_object,
    events.ObjectRemoved: ObjectTable._remove_object,
    events.CopyAdded: ObjectTable._add_copy,
    events.CopyRemoved: ObjectTable._remove_copy,
    events.AllocationsSpilled: ObjectTable._spill_allocations,
    events.MovesKnown: ObjectTable._note_moves,
    events.Counted: ObjectTable._count,
}
"""What applies each event; `apply` is a method's call and one look-up."""
