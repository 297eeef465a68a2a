"""Segments that the store has sent, mapped for as long as the store has them or views need them."""

import os
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from zerrow_store.client import spill_reader
from zerrow_store.client.connection import Connection
from zerrow_store.client.requests import Request
from zerrow_store.forks import Lock
from zerrow_store.native import _native
from zerrow_store.protocol import framing
from zerrow_store.protocol import messages as m
from zerrow_store.protocol.replies import SentSegment


class Segments(Protocol):
    """Keeps the segments that the store has sent to a process."""

    def begin(self) -> None:
        """Begin: at first, and in a forked child."""

    def missing(self, segment_ids: Iterable[bytes]) -> set[bytes]:
        """Return the segments among these that the store has to send."""

    def have(self, segment_id: bytes, fd: int, sent: SentSegment) -> None:
        """Keep a segment that the store has sent. The caller closes the descriptor."""

    def forget(self, segment_id: bytes) -> None:
        """Note that the store does not have a segment any more."""

    def lose(self) -> None:
        """Note that the store has begun anew, and knows none of the segments."""

    def tidy(self) -> None:
        """Note that some views have ended."""


class MappedSegments:
    """Segments mapped for reading. A process has one mapping of each, for all its connections."""

    def __init__(self) -> None:
        self._lock = Lock()
        self.begin()

    def begin(self) -> None:
        """See `Segments`."""
        self._gone: set[bytes] = set()

    def missing(self, segment_ids: Iterable[bytes]) -> set[bytes]:
        """See `Segments`."""
        return set(segment_ids) - set(_native.mapped_segments())

    def have(self, segment_id: bytes, fd: int, sent: SentSegment) -> None:
        """See `Segments`."""
        _native.map_segment(segment_id, fd, sent.size, sealed=not sent.checksums)

    def forget(self, segment_id: bytes) -> None:
        """Unmap a segment, at once or when its views have ended."""
        with self._lock:
            self._gone.add(segment_id)
        self.tidy()

    def lose(self) -> None:
        """Keep all mappings: views may need them."""

    def tidy(self) -> None:
        """See `Segments`."""
        with self._lock:
            if self._gone:
                mapped = set(_native.mapped_segments())
                self._gone = {s for s in self._gone & mapped if not _native.unmap_segment(s)}


def fetch(connection: Connection, segments: Segments, segment_ids: Iterable[bytes]) -> None:
    """Have the store send the segments that are not here yet. Raises ObjectLostError for a segment
    that is gone.
    """
    missing = list(segments.missing(segment_ids))
    for start in range(0, len(missing), framing.MAX_DESCRIPTORS):
        part = missing[start : start + framing.MAX_DESCRIPTORS]
        connection.wait(connection.send(_Fetch(segments, m.Segments(part))))


class _Fetch(Request):
    message: m.Segments

    def __init__(self, segments: Segments, message: m.Segments) -> None:
        super().__init__(message)
        self._segments = segments

    def replied(self, reply: Sequence[SentSegment], frame: framing.Frame) -> Any:
        segment_ids = self.message.segment_ids
        fds = frame.take_descriptors(len(segment_ids))
        try:
            for segment_id, fd, sent in zip(segment_ids, fds, reply, strict=True):
                # First: another thread may read the segment as soon as it is here.
                if sent.checksums:
                    spill_reader.register(segment_id, fd, sent.size, sent.checksums)
                self._segments.have(segment_id, fd, sent)
        finally:
            for fd in fds:
                os.close(fd)
