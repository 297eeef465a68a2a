"""The producer quota: a bound for each producer's unpublished memory.

Memory is bounded that producers have beside objects: in use, or freed and kept warm. The part of
the budget below the high watermark that objects do not use is shared out among the producers, which
are the processes that make tables. A producer is told its bound when it changes. While more than
the budget is resident and room is being made, large allocations wait.
"""

import bisect
import os
from collections import deque
from dataclasses import dataclass

from zerrow_store.budget import HIGH_WATERMARK
from zerrow_store.protocol import notices
from zerrow_store.server.spill import Spiller
from zerrow_store.server.state import State

# Producers are told at once when the unused part has changed by this share of the budget.
_NOTICED = 1 / 64
# A producer is idle if it published none of the last `_ROUNDS * cpu_count` objects: about as many
# produce at a time as there are processors.
_ROUNDS = 1
# What a producer had stored at each of its last publications is there to stay.
_LOOK_BACK = 2
_HOLD_BACK_SECONDS = 1.0


@dataclass(frozen=True)
class Held:
    """The bytes that a producer has in memory.

    passing: those of objects that come and go. unpublished: those beside objects.
    """

    passing: int
    unpublished: int


def bounds(held: dict[bytes, Held], idle: set[bytes], room: int) -> dict[bytes, int]:
    """Share `room` bytes out; returns each producer's bound.

    Busy producers come first. Each gets up to twice what it has, and an eighth of the room. If that
    is too much for all, they get equally much, counting their objects that come and go: their
    memory is the producer's again when these objects go. Idle producers then keep what they have,
    and the remainder is shared equally by all.
    """
    working = [producer for producer in held if producer not in idle]
    most = {p: 2 * (held[p].passing + held[p].unpublished) + room // 8 for p in working}

    def up_to(level: int) -> dict[bytes, int]:
        return {p: min(most[p], max(0, level - held[p].passing)) for p in working}

    highest = max((most[p] + held[p].passing for p in working), default=0)
    fits = bisect.bisect_right(range(highest + 1), room, key=lambda n: sum(up_to(n).values()))
    parts = dict.fromkeys(held, 0) | up_to(fits - 1)
    left = room - sum(parts.values())
    for producer in sorted(idle & held.keys(), key=lambda p: held[p].unpublished, reverse=True):
        parts[producer] = min(left, held[producer].unpublished)
        left -= parts[producer]
    return {producer: part + left // len(parts) for producer, part in parts.items()}


class ProducerQuota:
    """See the module."""

    def __init__(self, state: State, spiller: Spiller) -> None:
        self._state = state
        self._spiller = spiller
        self._room = 0
        self._bounds: dict[bytes, int] = {}
        self._publications = 0
        self._last_published: dict[bytes, int] = {}
        self._had_stored: dict[bytes, deque[int]] = {}
        self._held_back = False

    def came(self, segment_id: bytes) -> None:
        """Note that a producer has connected: it has to be told its bound, perhaps again."""
        self._bounds.pop(segment_id, None)
        self._last_published[segment_id] = self._publications

    def published(self, segment_id: bytes | None) -> None:
        """Note that a producer publishes an object, which is not stored yet."""
        segments = self._state.table.segments
        if segment_id is None or segment_id not in segments:  # or its process has ended
            return
        self._publications += 1
        self._last_published[segment_id] = self._publications
        had = self._had_stored.setdefault(segment_id, deque(maxlen=_LOOK_BACK))
        had.append(segments[segment_id].bytes_stored)

    def share_changed(self) -> None:
        """Share out what objects leave unused, if that has changed."""
        if abs(self._unused() - self._room) > _NOTICED * self._state.budget:
            self.share()

    def share(self) -> None:
        """Share out what objects leave unused, and tell the producers whose bounds change."""
        held = {
            segment_id: Held(
                self._passing(segment_id, segment.bytes_stored),
                max(0, self._state.resident_of(segment_id) - segment.bytes_stored),
            )
            for segment_id, segment in self._state.table.segments.items()
            if segment_id in self._state.attached
        }
        self._last_published = {s: self._last_published.get(s, 0) for s in held}
        self._had_stored = {s: had for s, had in self._had_stored.items() if s in held}
        busy_since = self._publications - _ROUNDS * (os.cpu_count() or 1)
        idle = {s for s, published in self._last_published.items() if published < busy_since}
        self._room = self._unused()
        told, self._bounds = self._bounds, bounds(held, idle, self._room)
        for segment_id, bound in self._bounds.items():
            if bound != told.get(segment_id):
                for owner in self._state.attached.get(segment_id, ()):
                    self._state.effects.notify(owner, notices.Unpublished(bound))

    def hold_back(self, resident: int) -> None:
        """Have large allocations wait if `resident` exceeds the budget and room is being made.

        They wait for a tick at most: what a producer is about to free may be what is missing.
        """
        full = resident > self._state.budget and self._spiller.is_busy
        if not (full or self._held_back):
            return
        self._held_back = full
        notice = notices.HoldBack(_HOLD_BACK_SECONDS if full else 0.0)
        for owners in self._state.attached.values():
            for owner in owners:
                self._state.effects.notify(owner, notice)

    def room_was_made(self) -> None:
        """Let large allocations go on if there is room now."""
        if self._held_back:
            self.hold_back(self._state.resident())

    def _passing(self, segment_id: bytes, stored: int) -> int:
        return stored - min(stored, *self._had_stored.get(segment_id, (0,)))

    def _unused(self) -> int:
        return max(0, int(HIGH_WATERMARK * self._state.budget) - self._state.table.bytes_stored)
