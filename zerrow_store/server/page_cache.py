"""Bounds the spilled bytes that readers leave in the page cache.

A control group is charged for it, and has reached its limit when that is full of it, though the
kernel could give it up. So it may fill what the budget has left, up to the high watermark; beyond,
what was left longest ago goes first. What is mapped, the kernel keeps. What somebody is about to
read can be had from the disk ahead; it does not count before that.
"""

import contextlib
import os
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from zerrow_store import _disk
from zerrow_store.protocol.places import unpack
from zerrow_store.server.eviction_records import Records
from zerrow_store.server.state import State


class _Piece(NamedTuple):
    segment_id: bytes
    fd: int
    offset: int
    size: int
    is_first_read: bool


class PageCache:
    """Idle objects that may have spilled bytes in the page cache. nbytes: of all, at most.

    is_first_read: whether nobody has read a file yet, so that it comes from the disk; it has been
    asked for then. read: of such files, the bytes read ahead, and the seconds that took; threads
    append to it.
    """

    def __init__(
        self,
        state: State,
        records: Records,
    ) -> None:
        self._state = state
        self._table = state.table
        self._records = records
        self._left: dict[bytes, int] = {}
        self.nbytes = 0
        self.read: deque[tuple[bytes, int, float]] = deque()

    def left(self, object_id: bytes) -> None:
        """An object has been let go of by its last reader."""
        if nbytes := self._table.objects[object_id].bytes_spilled:
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
            for segment_id, offset, size, objects in self._on_disk(object_id):
                # What another object shares may be held, and was checked when it was read.
                if objects == 1:
                    fd = self._state.descriptors[segment_id]
                    os.posix_fadvise(fd, offset, size, os.POSIX_FADV_DONTNEED)

    def read_ahead(self, object_ids: Iterable[bytes]) -> None:
        """Read what of these objects is on disk, in a thread. Who reads it meanwhile waits for the
        same pages.
        """
        pieces: list[_Piece] = []
        with contextlib.suppress(OSError, RuntimeError):  # no more descriptors, or threads
            for object_id in filter(self._table.objects.__contains__, object_ids):
                for segment_id, offset, size, _ in self._on_disk(object_id):
                    # A duplicate: a file may end while it is read.
                    fd = os.dup(self._state.descriptors[segment_id])
                    # From the disk, if nobody has read the file yet; it has been asked for then.
                    is_first = self._records.returned(segment_id, 0.0)
                    pieces.append(_Piece(segment_id, fd, offset, size, is_first))
            if pieces:
                threading.Thread(
                    target=_read, args=(pieces, self.read), name="zerrow-read-ahead"
                ).start()
                return
        for piece in pieces:
            os.close(piece.fd)

    def _on_disk(self, object_id: bytes) -> Iterator[tuple[bytes, int, int, int]]:
        """The pieces of files that an object lies in: segment, offset, size, and how many objects
        do.
        """
        for segment_id, ranges in self._table.objects[object_id].allocations:
            segment = self._table.segments[segment_id]
            if segment.spilled:
                counts = segment.references.counts(ranges)
                for (offset, size), objects in zip(unpack(ranges), counts, strict=True):
                    yield segment_id, offset, size, objects


def _read(pieces: list[_Piece], read: deque[tuple[bytes, int, float]]) -> None:
    """Read, and say nothing of failures: who needs the bytes will hear of them. Asked to do so by
    POSIX_FADV_WILLNEED, the kernel reads no more than a window.
    """
    try:
        for piece in pieces:
            started = time.monotonic()
            with contextlib.suppress(OSError):
                _disk.checksum(piece.fd, piece.offset, piece.size)
                if piece.is_first_read:
                    read.append((piece.segment_id, piece.size, time.monotonic() - started))
    finally:
        for piece in pieces:
            os.close(piece.fd)
