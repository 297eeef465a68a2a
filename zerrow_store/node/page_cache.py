"""The page cache of spilled files: what readers have left there is memory, too.

A control group is charged for it, and has reached its limit when that is full of it, though the
kernel could give it up. So it may fill what the budget has left, up to the high watermark; beyond,
what was left longest ago goes first. What is mapped, the kernel keeps.
"""

import os

from zerrow_store.node.books import Books, unpack


class PageCache:
    """Idle objects that may have spilled bytes in the page cache. nbytes: of all, at most."""

    def __init__(self, books: Books, descriptors: dict[bytes, int]) -> None:
        self._books = books
        self._descriptors = descriptors
        self._left: dict[bytes, int] = {}
        self.nbytes = 0

    def left(self, object_id: bytes) -> None:
        """An object has been let go of by its last reader."""
        if nbytes := self._books.objects[object_id].bytes_spilled:
            self._left[object_id] = nbytes
            self.nbytes += nbytes

    def forget(self, object_id: bytes) -> None:
        """An object is held again, or gone."""
        self.nbytes -= self._left.pop(object_id, 0)

    def trim(self, room: int) -> None:
        """Drop what is more than `room` bytes."""
        while self._left and self.nbytes > room:
            object_id = next(iter(self._left))
            self.forget(object_id)
            for segment_id, ranges in self._books.objects[object_id].allocations:
                if self._books.segments[segment_id].spilled:
                    for offset, size in unpack(ranges):
                        fd = self._descriptors[segment_id]
                        os.posix_fadvise(fd, offset, size, os.POSIX_FADV_DONTNEED)
