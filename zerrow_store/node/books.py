"""The books of a node store: which objects there are, and what they refer to.

Pure data, changed only by events, so that server and supervisor keep the same books by applying
the same events. The unit of holding is the allocation: (segment, offset, size). Bytes are counted
once, however many objects refer to them.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from zerrow_store.node._ledger import Ledger

_PAIR = struct.Struct("<QQ")

Packed = list[tuple[bytes, bytes]]
"""Per segment id, its allocations: packed little-endian uint64 pairs (offset, size)."""

Freed = list[tuple[bytes, bytes]]
"""Per segment id, offsets: packed little-endian uint64."""

COUNTERS = ("bytes_shared", "bytes_reshared", "bytes_copied")


def unpack(packed: bytes) -> Iterator[tuple[int, int]]:
    """Iterate over packed (offset, size) pairs."""
    return _PAIR.iter_unpack(packed)


@dataclass
class Segment:
    """A memfd of a process. shared: other stores refer to it, too."""

    size: int
    pid: int
    started: int
    shared: bool = False
    references: Ledger = field(default_factory=Ledger)


@dataclass
class Object:
    """A published object. Deleted ones stay until their last holder is gone.

    transient: it goes when its last holder does. owner: it goes when this segment's process does.
    """

    allocations: Packed
    message: bytes | None
    created: float
    nbytes: int
    transient: bool
    owner: bytes | None
    deleted: bool = False


class Books:
    """Segments, objects and counters; see the module."""

    def __init__(self) -> None:
        self.segments: dict[bytes, Segment] = {}
        self.objects: dict[bytes, Object] = {}
        self.counters = dict.fromkeys(COUNTERS, 0)
        self.bytes_stored = 0

    def apply(self, kind: str, body: list[Any]) -> Freed:
        """Apply an event; returns what nothing refers to any more."""
        freed: Freed = getattr(self, f"_{kind}")(*body) or []
        return freed

    def snapshot(self) -> Iterator[tuple[str, list[Any]]]:
        """Iterate over events that make equal books out of empty ones."""
        for segment_id, segment in self.segments.items():
            yield "segment", [segment_id, segment.size, segment.pid, segment.started]
            if segment.shared:
                yield "share", [segment_id]
        for object_id, entry in self.objects.items():
            body = [object_id, entry.allocations, entry.message, entry.transient, entry.owner]
            yield "put", [*body, [0, 0, 0], entry.created]
            if entry.deleted:
                yield "hide", [object_id]
        yield "count", [list(self.counters.values())]

    def new_bytes(self, allocations: Packed) -> int:
        """Return how many bytes of these are not counted yet.

        Raises ValueError for an allocation outside of its segment or of a changed size.
        """
        segments = self.segments
        return sum(
            segments[segment_id].references.missing(ranges, segments[segment_id].size)
            for segment_id, ranges in allocations
        )

    def _segment(self, segment_id: bytes, size: int, pid: int, started: int) -> None:
        self.segments[segment_id] = Segment(size, pid, started)

    def _share(self, segment_id: bytes) -> None:
        self.segments[segment_id].shared = True

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
    ) -> None:
        nbytes = 0
        for segment_id, ranges in allocations:
            added, named = self.segments[segment_id].references.add(ranges)
            self.bytes_stored += added
            nbytes += named
        self.objects[object_id] = Object(allocations, message, created, nbytes, transient, owner)
        self._count(counters)

    def _count(self, counters: list[int]) -> None:
        for name, increment in zip(COUNTERS, counters, strict=True):
            # They travel as 64 bits.
            self.counters[name] = min(self.counters[name] + increment, (1 << 63) - 1)

    def _hide(self, object_id: bytes) -> None:
        self.objects[object_id].deleted = True

    def _remove(self, object_id: bytes) -> Freed:
        freed = []
        for segment_id, ranges in self.objects.pop(object_id).allocations:
            offsets, nbytes = self.segments[segment_id].references.remove(ranges)
            self.bytes_stored -= nbytes
            if offsets:
                freed.append((segment_id, offsets))
        return freed
