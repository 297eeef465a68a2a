"""Counts of references to allocations. This stub is the module's documentation.

`ranges` are packed little-endian uint64 pairs (offset, size), `offsets` packed uint64. Lengths that
do not fit raise ValueError. Not thread-safe beyond the GIL, which every call holds.
"""

class Ledger:
    """How many objects refer to each allocation of one segment; sizes in bytes."""

    def missing(self, ranges: bytes, segment_size: int) -> int:
        """Return how many bytes of `ranges` nothing refers to yet.

        Raises ValueError for a range that is empty, not inside the segment, or known with another
        size.
        """

    def contains(self, ranges: bytes) -> bool:
        """Whether all of `ranges` are known, with these sizes."""

    def counts(self, ranges: bytes) -> list[int]:
        """Return how many objects refer to each."""

    def add(self, ranges: bytes) -> tuple[int, int]:
        """Count one more reference to each; returns the bytes that nothing referred to before, and
        the bytes of all.
        """

    def remove(self, ranges: bytes) -> tuple[bytes, int]:
        """Count one less of each; returns the offsets that nothing refers to any more, their bytes.

        Raises KeyError for an allocation that nothing refers to.
        """

    def offsets(self) -> bytes:
        """Return the offsets of all allocations, in any order."""

    def gaps(self, segment_size: int) -> list[tuple[int, int]]:
        """Return the ranges (start, end) that no allocation covers, in order."""

    def __len__(self) -> int: ...

class OffsetSet:
    """Offsets of allocations."""

    def add(self, ranges: bytes) -> bytes:
        """Enter the offsets of `ranges`; returns those that were in already."""

    def remove(self, offsets: bytes) -> bytes:
        """Take offsets out; returns those that were in."""

    def retain(self, offsets: bytes) -> bytes:
        """Take all but `offsets` out; returns those that were taken out."""
