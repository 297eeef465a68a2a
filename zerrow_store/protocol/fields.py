"""The types that fields of messages have, with the bounds that are checked on arrival."""

from typing import Annotated

import msgspec
from msgspec import Meta

from zerrow_store.protocol.framing import MAX_DESCRIPTORS

MAX_ID = 1024
"""The bytes that an object's id may have."""

ObjectId = Annotated[bytes, Meta(min_length=1, max_length=MAX_ID)]
SegmentId = Annotated[bytes, Meta(min_length=16, max_length=16)]
OwnerId = Annotated[bytes, Meta(max_length=64)]
Size = Annotated[int, Meta(ge=0, le=1 << 62)]
Number = Annotated[int, Meta(ge=0, le=1 << 31)]
Seconds = Annotated[float, Meta(ge=0, le=1e9)]
Counter = Annotated[int, Meta(ge=0, le=1 << 50)]
Name = Annotated[str, Meta(max_length=1 << 16)]
ObjectName = Annotated[str, Meta(min_length=1, max_length=MAX_ID)]

MAX_COUNT = (1 << 63) - 1
RunningCount = Annotated[int, Meta(ge=0, le=MAX_COUNT)]


class Counters(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """Bytes that were published: in place, in another process's segment, by copying."""

    shared: RunningCount = 0
    reshared: RunningCount = 0
    copied: RunningCount = 0


Allocations = list[tuple[SegmentId, bytes]]
"""Per segment, allocations: packed little-endian uint64 pairs (offset, size)."""

Sealed = Annotated[list[tuple[SegmentId, Size]], Meta(max_length=MAX_DESCRIPTORS)]
"""Sealed segments (id, size) that come along, a descriptor each."""

Moves = list[tuple[SegmentId, Size, SegmentId, Size]]
"""Per allocation, its place (segment, offset) as the object's message has it, and its place now."""

Checksums = list[tuple[Size, Size, Annotated[int, Meta(ge=0)]]]
"""Per allocation on disk: offset, size, checksum."""

Unit = tuple[str, str]
"""What was decoded of a file: (variant, column)."""

Wanted = tuple[Unit, list[Number]]
"""A unit of a file, and parts of it."""

Layout = Annotated[list[tuple[Number, Number]], Meta(min_length=1)]
"""Distinct (part, number of its chunks), in the order in which an object has them."""
