"""The object table of a node store: which objects there are, and what they refer to.

Pure data, changed only by events, so that server and supervisor keep the same object table by
applying the same events. The unit of holding is the allocation: (segment, offset, size). Bytes are
counted once, however many objects refer to them.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from zerrow_store._ledger import Ledger
from zerrow_store.protocol.places import (
    NO_PROCESS,
    Checksum,
    Freed,
    Packed,
    Place,
    pack_pair,
    unpack,
)
from zerrow_store.server.decode_cache_index import DecodeCacheIndex, Entry

COUNTERS = ("bytes_shared", "bytes_reshared", "bytes_copied")


@dataclass
class Segment:
    """A memfd of a process; or a file of no process (pid NO_PROCESS): a sealed memfd, or spilled
    bytes on disk, whose allocations then have checksums. shared: other stores refer to it, too.
    bytes_stored: those that objects refer to.
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
    """A published object. Deleted ones stay until their last holder is gone.

    transient: it goes when its last holder does. owner: it goes when this segment's process does.
    carrier: what carries it there, if the owner has to be told of the object. node: the machine
    whose store says when it goes.
    proxy: it stands for an object of another machine that belongs to a process of this one. copy:
    its bytes are those of another machine's object, and can be had there again.
    moved: where allocations that its message names lie, as they were spilled, or are copies.
    bytes_spilled: of nbytes, what is on disk.
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
    copy: bool = False
    deleted: bool = False
    moved: dict[Place, Place] = field(default_factory=dict)
    bytes_spilled: int = 0

    @property
    def is_elsewhere(self) -> bool:
        """Whether none of its bytes are here."""
        return self.proxy and not self.copy

    def places(self) -> list[list[Any]]:
        """Return `moved` as it travels."""
        return [[*before, *now] for before, now in self.moved.items()]


class ObjectTable:
    """Segments, objects, readers and counters; see the module.

    epoch: what this object table is known by. Whoever connects again sees by it whether the store
    knows what it knew. readers: by what a client is known by, its process's pid and start.
    """

    def __init__(self) -> None:
        self.epoch = b""
        self.segments: dict[bytes, Segment] = {}
        self.objects: dict[bytes, Object] = {}
        self.readers: dict[bytes, tuple[int, int]] = {}
        self.cache = DecodeCacheIndex()
        self.counters = dict.fromkeys(COUNTERS, 0)
        self.bytes_stored = 0
        self.bytes_spilled = 0

    def apply(self, kind: str, body: list[Any]) -> Freed:
        """Apply an event; returns what nothing refers to any more."""
        freed: Freed = getattr(self, f"_{kind}")(*body) or []
        return freed

    def snapshot(self) -> Iterator[tuple[str, list[Any]]]:
        """Iterate over events that make an equal object table out of an empty one."""
        yield "epoch", [self.epoch]
        for identity, (pid, started) in self.readers.items():
            yield "reader", [identity, pid, started]
        for segment_id, segment in self.segments.items():
            yield "segment", [segment_id, segment.size, segment.pid, segment.started]
            if segment.shared:
                yield "share", [segment_id]
            if segment.spilled:
                yield "on_disk", [segment_id, segment.checksums]
        for object_id, entry in self.objects.items():
            allocations = [] if entry.copy else entry.allocations
            body = [object_id, allocations, entry.message, entry.transient, entry.owner]
            put = [*body, [0, 0, 0], entry.created, entry.carrier, entry.node, entry.proxy]
            if cached := self.cache.entries.get(object_id):
                yield "cache", [put, list(vars(cached).values())]
            elif entry.proxy or not entry.copy:
                yield "put", put
            if entry.copy:
                landed = [entry.allocations, entry.places(), entry.node, entry.created]
                yield "land", [object_id, *landed]
            elif entry.moved:
                yield "moved", [object_id, entry.places()]
            if entry.deleted:
                yield "hide", [object_id]
        yield "count", [list(self.counters.values())]

    def has_results(self) -> bool:
        """Whether there are objects, but for what can be had again, and proxies."""
        cached = self.cache.entries
        return any(not (e.proxy or e.copy or o in cached) for o, e in self.objects.items())

    def new_bytes(self, allocations: Packed) -> int:
        """Return how many bytes of these are not counted yet.

        Raises ValueError for an allocation outside of its segment or of a changed size.
        """
        segments = self.segments
        return sum(
            segments[segment_id].references.missing(ranges, segments[segment_id].size)
            for segment_id, ranges in allocations
        )

    def _epoch(self, epoch: bytes) -> None:
        self.epoch = epoch

    def _reader(self, identity: bytes, pid: int, started: int) -> None:
        self.readers[identity] = pid, started

    def _reader_gone(self, identity: bytes) -> None:
        del self.readers[identity]

    def _segment(self, segment_id: bytes, size: int, pid: int, started: int) -> None:
        self.segments[segment_id] = Segment(size, pid, started)

    def _share(self, segment_id: bytes) -> None:
        self.segments[segment_id].shared = True

    def _on_disk(self, segment_id: bytes, checksums: list[Checksum]) -> None:
        self.segments[segment_id].checksums = checksums

    def _segment_gone(self, segment_id: bytes) -> None:
        del self.segments[segment_id]

    def _put(
        self,
        object_id: bytes,
        allocations: Packed,
        message: bytes | None,
        transient: bool,
        owner: bytes | None,
        counters: list[int],
        created: float,
        carrier: bytes | None = None,
        node: bytes | None = None,
        proxy: bool = False,
    ) -> None:
        nbytes = spilled = 0
        for segment_id, ranges in allocations:
            named = self._refer(segment_id, ranges)
            nbytes += named
            spilled += named if self.segments[segment_id].spilled else 0
        entry = Object(
            allocations, message, created, nbytes, transient, owner, carrier, node, proxy
        )
        entry.bytes_spilled = spilled
        self.objects[object_id] = entry
        self._count(counters)

    def _land(
        self,
        object_id: bytes,
        allocations: Packed,
        moved: list[list[Any]],
        node: bytes | None,
        created: float,
    ) -> None:
        """Another machine's object is here, too. It goes with its last holder if neither a proxy
        nor a node says when.
        """
        if object_id not in self.objects:
            transient = node is None
            self.objects[object_id] = Object([], None, created, 0, transient, None, node=node)
        entry = self.objects[object_id]
        entry.copy, entry.allocations = True, allocations
        entry.nbytes = sum(self._refer(segment_id, ranges) for segment_id, ranges in allocations)
        self._moved(object_id, moved)

    def _unland(self, object_id: bytes) -> Freed:
        """Of another machine's object there is the proxy alone."""
        entry = self.objects[object_id]
        allocations, entry.allocations = entry.allocations, []
        entry.copy, entry.nbytes, entry.moved = False, 0, {}
        return self._unrefer_all(allocations)

    def _count(self, counters: list[int]) -> None:
        for name, increment in zip(COUNTERS, counters, strict=True):
            # They travel as 64 bits.
            self.counters[name] = min(self.counters[name] + increment, (1 << 63) - 1)

    def _cache(self, put: list[Any], entry: list[Any]) -> None:
        self._put(*put)
        file, path, unit, *rest = entry
        self.cache.add(put[0], Entry(file, path, tuple(unit), *rest))

    def _cache_used(self, object_ids: list[bytes], now: float) -> None:
        self.cache.use(object_ids, now)

    def _hide(self, object_id: bytes) -> None:
        self.cache.forget(object_id)
        self.objects[object_id].deleted = True

    def _remove(self, object_id: bytes) -> Freed:
        self.cache.forget(object_id)
        return self._unrefer_all(self.objects.pop(object_id).allocations)

    def _unrefer_all(self, allocations: Packed) -> Freed:
        freed = []
        for segment_id, ranges in allocations:
            if offsets := self._unrefer(segment_id, ranges):
                freed.append((segment_id, offsets))
        return freed

    def _spill(
        self, object_ids: list[bytes], segment_id: bytes, moves: dict[int, int], file_id: bytes
    ) -> Freed:
        """Objects refer to a file for what they had in a segment. moves: new offset by old one."""
        freed = []
        for object_id in object_ids:
            entry = self.objects[object_id]
            kept: Packed = []
            for segment, ranges in entry.allocations:
                if segment != segment_id:
                    kept.append((segment, ranges))
                    continue
                pairs = list(unpack(ranges))
                gone = b"".join(pack_pair(*pair) for pair in pairs if pair[0] in moves)
                new = b"".join(pack_pair(moves[o], size) for o, size in pairs if o in moves)
                left = b"".join(pack_pair(*pair) for pair in pairs if pair[0] not in moves)
                kept += [(s, r) for s, r in ((segment_id, left), (file_id, new)) if r]
                entry.bytes_spilled += self._refer(file_id, new)
                if offsets := self._unrefer(segment_id, gone):
                    freed.append((segment_id, offsets))
                entry.moved |= {
                    (segment_id, o): (file_id, moves[o]) for o, _ in pairs if o in moves
                }
            entry.allocations = kept
        return freed

    def _moved(self, object_id: bytes, moved: list[list[Any]]) -> None:
        self.objects[object_id].moved = {(s, o): (file, at) for s, o, file, at in moved}

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
