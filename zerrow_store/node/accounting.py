"""What a store's memory is used for, each byte counted once."""

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

from zerrow_store.node.books import Books, Place, unpack
from zerrow_store.node.eviction import HIGH_WATERMARK, LOW_WATERMARK


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


def account(books: Books, holders: Counter[bytes], resident: int, budget: int) -> dict[str, Any]:
    """Return the fields of a MemoryReport. Takes time in proportion to all allocations."""
    kinds: dict[str, list[bytes]] = {
        "objects_in_use": [],
        "cache_in_use": [],
        "objects_idle": [],
        "cache_idle": [],
    }
    for object_id in books.objects:
        kind = "cache" if object_id in books.cache.entries else "objects"
        kinds[f"{kind}_{'in_use' if holders[object_id] else 'idle'}"].append(object_id)
    seen: set[Place] = set()
    sizes = dict.fromkeys(kinds, 0)
    for kind, objects in kinds.items():
        for object_id in objects:
            for segment_id, ranges in books.objects[object_id].allocations:
                if books.segments[segment_id].spilled:
                    continue
                for offset, size in unpack(ranges):
                    if (segment_id, offset) not in seen:
                        seen.add((segment_id, offset))
                        sizes[kind] += size
    return {
        "budget": budget,
        "high_watermark": int(HIGH_WATERMARK * budget),
        "low_watermark": int(LOW_WATERMARK * budget),
        "resident": resident,
        **sizes,
        "unpublished": max(0, resident - books.bytes_stored),
        "spilled": books.bytes_spilled,
    }
