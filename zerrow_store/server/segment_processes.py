"""The processes that make segments: what happens when one ends.

Each is watched through a pidfd. At its end its owned objects are deleted, and what no object of its
segment refers to is given back, as soon as no forked child of the process has the segment any more.
Segments without a process, sealed ones and files of spilled bytes, are treated as those of
processes that have ended.
"""

import os
import selectors
from typing import Any

from zerrow_store.errors import ObjectLostError
from zerrow_store.processes import open_pidfd, start_time
from zerrow_store.protocol import events
from zerrow_store.protocol.places import NO_PROCESS
from zerrow_store.segments import is_mapped_by_a_child
from zerrow_store.server.lifetimes import Lifetimes
from zerrow_store.server.state import State


class SegmentProcesses:
    """See the module."""

    def __init__(
        self, state: State, lifetimes: Lifetimes, selector: selectors.BaseSelector
    ) -> None:
        self._state = state
        self._lifetimes = lifetimes
        self._selector = selector
        self._inherited: set[bytes] = set()

    def attach(self, segment_id: bytes, fd: int, size: int, pid: int) -> None:
        """Enter a process's segment; from then on the descriptor is the store's.

        Raises ObjectLostError if the process has ended, OSError if its end could not be seen.
        """
        pidfd = open_pidfd(pid)
        if pidfd is None:
            raise ObjectLostError(f"process {pid}, which made the segment, has ended")
        self._watch(segment_id, pidfd)
        self._state.add_segment(events.SegmentAdded(segment_id, size, pid, start_time(pid)), fd)

    def restored(self) -> None:
        """Watch all processes of a store that was started again; some have ended meanwhile."""
        for segment_id in list(self._state.table.segments):
            self._watch_again(segment_id)

    def ended(self, segment_id: bytes) -> None:
        """End what belongs to a segment's process, which has ended."""
        self._state.living.discard(segment_id)
        objects = self._state.table.objects
        for object_id in [o for o, entry in objects.items() if entry.owner == segment_id]:
            self._lifetimes.delete(object_id)
        # A child that was forked reads what no object refers to any more.
        if is_mapped_by_a_child(self._state.descriptors[segment_id]):
            self._inherited.add(segment_id)
            return
        self._inherited.discard(segment_id)
        self._state.mark_dead(segment_id)
        self._state.give_back_gaps(segment_id)

    def tick(self) -> None:
        """Look whether the forked children of processes that have ended have ended, too."""
        for segment_id in list(self._inherited):
            self.ended(segment_id)

    def _watch_again(self, segment_id: bytes) -> None:
        segment = self._state.table.segments[segment_id]
        if segment.pid == NO_PROCESS:
            self.ended(segment_id)
            return
        pidfd = open_pidfd(segment.pid)
        if pidfd is None or start_time(segment.pid) != segment.started:
            if pidfd is not None:
                os.close(pidfd)
            self.ended(segment_id)
            return
        self._watch(segment_id, pidfd)

    def _watch(self, segment_id: bytes, pidfd: int) -> None:
        def ended(*_: Any) -> None:
            self._selector.unregister(pidfd)
            os.close(pidfd)
            self.ended(segment_id)

        try:
            self._selector.register(pidfd, selectors.EVENT_READ, ended)
        except OSError:
            os.close(pidfd)
            raise
        self._state.living.add(segment_id)
