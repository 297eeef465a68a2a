"""Sealed segments that come with publications: they have no process whose end would end them."""

import os
from collections import Counter
from collections.abc import Sequence

from zerrow_store.protocol import events
from zerrow_store.protocol.places import NO_PROCESS
from zerrow_store.segments import check_segment
from zerrow_store.server.connection import Call
from zerrow_store.server.segment_processes import SegmentProcesses
from zerrow_store.server.state import State


class SealedSegments:
    """Sealed segments of publications under way: no object may refer to them yet."""

    def __init__(self, state: State, processes: SegmentProcesses) -> None:
        self._state = state
        self._processes = processes
        self._under_way: Counter[bytes] = Counter()

    def take_over(self, call: Call, sealed: Sequence[tuple[bytes, int]]) -> list[bytes]:
        """Take over the segments of a publication; return their ids, to be released."""
        for (_, size), fd in zip(sealed, call.descriptors, strict=True):
            check_segment(fd, size, sealed=True)
        ids: list[bytes] = []
        try:
            for (segment_id, size), fd in zip(sealed, call.descriptors, strict=True):
                if segment_id not in self._state.table.segments:
                    added = events.SegmentAdded(segment_id, size, NO_PROCESS, 0)
                    self._state.add_segment(added, os.dup(fd))
                    self._under_way[segment_id] = 0
                if segment_id in self._under_way:
                    self._under_way[segment_id] += 1
                    ids.append(segment_id)
        except OSError:  # out of descriptors
            self.release(ids)
            raise
        return ids

    def release(self, segment_ids: list[bytes]) -> None:
        """Release the segments of a finished publication; those that no object refers to end."""
        for segment_id in segment_ids:
            self._under_way[segment_id] -= 1
            if not self._under_way[segment_id]:
                del self._under_way[segment_id]
                self._processes.ended(segment_id)
