"""What a store's memory is used for, each byte counted once."""

from collections import Counter, defaultdict
from collections.abc import Callable

from zerrow_store.budget import HIGH_WATERMARK, LOW_WATERMARK
from zerrow_store.protocol.places import Place, unpack
from zerrow_store.protocol.reports import MemoryReport, SegmentMemory
from zerrow_store.server.object_table import ObjectTable

_KINDS = ("objects_in_use", "objects_idle", "cache_in_use", "cache_idle")
_PRECEDENCE = ("objects_in_use", "cache_in_use", "objects_idle", "cache_idle")
"""For what several objects share."""


def account(
    table: ObjectTable, holders: Counter[bytes], resident: int, budget: int
) -> MemoryReport:
    """Return what all memory is used for. Takes time in proportion to all allocations."""
    kinds = _kinds(table, holders)
    return MemoryReport(
        budget=budget,
        high_watermark=int(HIGH_WATERMARK * budget),
        low_watermark=int(LOW_WATERMARK * budget),
        resident=resident,
        **{kind: sum(each[kind] for each in kinds.values()) for kind in _KINDS},
        unpublished=max(0, resident - table.bytes_stored),
        spilled=table.bytes_spilled,
    )


def account_by_segment(
    table: ObjectTable, holders: Counter[bytes], resident: Callable[[bytes], int]
) -> list[SegmentMemory]:
    """Return what each segment is used for.

    resident: called with the id of a segment in memory; returns the bytes that it has there.
    """
    kinds, rows = _kinds(table, holders), []
    for segment_id, segment in table.segments.items():
        held = 0 if segment.spilled else resident(segment_id)
        spilled = segment.bytes_stored if segment.spilled else 0
        unpublished = max(0, held - segment.bytes_stored)
        row = SegmentMemory(
            segment_id,
            segment.pid,
            held,
            **{kind: kinds[segment_id][kind] for kind in _KINDS},
            unpublished=unpublished,
            spilled=spilled,
        )
        rows.append(row)
    return rows


def _kinds(table: ObjectTable, holders: Counter[bytes]) -> defaultdict[bytes, Counter[str]]:
    """By segment in memory and kind, the bytes of all allocations, each once."""
    objects: dict[str, list[bytes]] = {kind: [] for kind in _PRECEDENCE}
    for object_id in table.objects:
        kind = "cache" if object_id in table.cache.entries else "objects"
        objects[f"{kind}_{'in_use' if holders[object_id] else 'idle'}"].append(object_id)
    seen: set[Place] = set()
    sizes: defaultdict[bytes, Counter[str]] = defaultdict(Counter)
    for kind in _PRECEDENCE:
        for object_id in objects[kind]:
            for segment_id, ranges in table.objects[object_id].allocations:
                if table.segments[segment_id].spilled:
                    continue
                for offset, size in unpack(ranges):
                    if (segment_id, offset) not in seen:
                        seen.add((segment_id, offset))
                        sizes[segment_id][kind] += size
    return sizes
