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


class AdoptedSegments:
    """Those whose publication is neither entered nor refused yet; no object may refer to them."""

    def __init__(self, state: State, processes: SegmentProcesses) -> None:
        self._state = state
        self._processes = processes
        self._adopted: Counter[bytes] = Counter()

    def adopt(self, call: Call, adopted: Sequence[tuple[bytes, int]]) -> list[bytes]:
        """Take over the segments that came with a publication; returns their ids, to be settled."""
        for (_, size), fd in zip(adopted, call.descriptors, strict=True):
            check_segment(fd, size, sealed=True)
        ids: list[bytes] = []
        try:
            for (segment_id, size), fd in zip(adopted, call.descriptors, strict=True):
                if segment_id not in self._state.table.segments:
                    added = events.SegmentAdded(segment_id, size, NO_PROCESS, 0)
                    self._state.add_segment(added, os.dup(fd))
                    self._adopted[segment_id] = 0
                if segment_id in self._adopted:
                    self._adopted[segment_id] += 1
                    ids.append(segment_id)
        except OSError:  # out of descriptors
            self.settle(ids)
            raise
        return ids

    def settle(self, segment_ids: list[bytes]) -> None:
        """Let go of segments whose publication was entered or refused: those without objects
        end.
        """
        for segment_id in segment_ids:
            self._adopted[segment_id] -= 1
            if not self._adopted[segment_id]:
                del self._adopted[segment_id]
                self._processes.ended(segment_id)
