"""Where bytes lie: allocations in segments, as they travel."""

import struct
from collections.abc import Iterable, Iterator

_PAIR = struct.Struct("<QQ")

Place = tuple[bytes, int]
"""Segment id, offset."""

Checksum = tuple[int, int, int]
"""Offset, size, checksum of an allocation on disk."""

Packed = list[tuple[bytes, bytes]]
"""Per segment id, its allocations: packed little-endian uint64 pairs (offset, size)."""

Moved = dict[Place, Place]
"""Where allocations are now, by where they were: spilled, or as another machine's object."""

Freed = list[tuple[bytes, bytes]]
"""Per segment id, offsets: packed little-endian uint64."""

NO_PROCESS = 0
"""In place of the pid of a segment's process: it is sealed against writing, or on disk."""


def pack_pair(offset: int, size: int) -> bytes:
    """Return a packed (offset, size) pair."""
    return _PAIR.pack(offset, size)


def unpack(packed: bytes) -> Iterator[tuple[int, int]]:
    """Iterate over packed (offset, size) pairs."""
    return _PAIR.iter_unpack(packed)


def moved_places(moves: Iterable[tuple[bytes, int, bytes, int]]) -> Moved:
    """Return where allocations are now, by where they were, from how that travels."""
    return {(segment, offset): (file, at) for segment, offset, file, at in moves}
