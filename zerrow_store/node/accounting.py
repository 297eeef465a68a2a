"""What a store's memory is used for, each byte counted once."""

from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from zerrow_store.node.books import Books, Place, unpack
from zerrow_store.node.eviction import HIGH_WATERMARK, LOW_WATERMARK

_KINDS = ("objects_in_use", "objects_idle", "cache_in_use", "cache_idle")
_PRECEDENCE = ("objects_in_use", "cache_in_use", "objects_idle", "cache_idle")
"""For what several objects share."""


@dataclass(frozen=True)
class MemoryReport:
    """Bytes. `resident` is what all segments have in memory: what is published, as part of objects
    or of the cache, in use (somebody holds it) or idle; and what is not, which processes work with
    or keep warm for it. What objects and the cache share counts as in use before idle, and as
    objects' before the cache's. `spilled` lies on disk. The watermarks say when eviction begins and
    ends.
    """

    budget: int
    high_watermark: int
    low_watermark: int
    resident: int
    objects_in_use: int
    objects_idle: int
    cache_in_use: int
    cache_idle: int
    unpublished: int
    spilled: int

    def as_dict(self) -> dict[str, int]:
        """Return the figures by name."""
        return asdict(self)


@dataclass(frozen=True)
class SegmentMemory:
    """What one segment is used for, in bytes, as in a MemoryReport. pid: of the process that made
    it; 0 for files of no process, on disk or sealed.
    """

    segment: bytes
    pid: int
    resident: int
    objects_in_use: int
    objects_idle: int
    cache_in_use: int
    cache_idle: int
    unpublished: int
    spilled: int


def account(books: Books, holders: Counter[bytes], resident: int, budget: int) -> dict[str, Any]:
    """Return the fields of a MemoryReport. Takes time in proportion to all allocations."""
    kinds = _kinds(books, holders)
    return {
        "budget": budget,
        "high_watermark": int(HIGH_WATERMARK * budget),
        "low_watermark": int(LOW_WATERMARK * budget),
        "resident": resident,
        **{kind: sum(each[kind] for each in kinds.values()) for kind in _KINDS},
        "unpublished": max(0, resident - books.bytes_stored),
        "spilled": books.bytes_spilled,
    }


def account_by_segment(
    books: Books, holders: Counter[bytes], resident: Callable[[bytes], int]
) -> list[list[Any]]:
    """Return the fields of a SegmentMemory for each segment. resident: of a segment in memory."""
    kinds, rows = _kinds(books, holders), []
    for segment_id, segment in books.segments.items():
        held = 0 if segment.spilled else resident(segment_id)
        spilled = segment.bytes_stored if segment.spilled else 0
        unpublished = max(0, held - segment.bytes_stored)
        sizes = [kinds[segment_id][kind] for kind in _KINDS]
        rows.append([segment_id, segment.pid, held, *sizes, unpublished, spilled])
    return rows


def _kinds(books: Books, holders: Counter[bytes]) -> defaultdict[bytes, Counter[str]]:
    """By segment in memory and kind, the bytes of all allocations, each once."""
    objects: dict[str, list[bytes]] = {kind: [] for kind in _PRECEDENCE}
    for object_id in books.objects:
        kind = "cache" if object_id in books.cache.entries else "objects"
        objects[f"{kind}_{'in_use' if holders[object_id] else 'idle'}"].append(object_id)
    seen: set[Place] = set()
    sizes: defaultdict[bytes, Counter[str]] = defaultdict(Counter)
    for kind in _PRECEDENCE:
        for object_id in objects[kind]:
            for segment_id, ranges in books.objects[object_id].allocations:
                if books.segments[segment_id].spilled:
                    continue
                for offset, size in unpack(ranges):
                    if (segment_id, offset) not in seen:
                        seen.add((segment_id, offset))
                        sizes[segment_id][kind] += size
    return sizes
