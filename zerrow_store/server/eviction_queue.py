"""Candidates for eviction in the order in which a policy lets them go."""

import heapq
import itertools
import logging
import math
from collections.abc import Hashable

from zerrow_store.policy import Adaptive, Candidate, Policy, Rank

logger = logging.getLogger("zerrow_store.server")


class EvictionQueue:
    """A priority queue whose entries can be taken back: O(log n) each.

    nbytes: of all that is in.
    """

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._floor = 0.0
        self._serial = itertools.count()
        self._entries: dict[Hashable, tuple[int, Candidate, str]] = {}
        # Also of what was taken back or entered anew since, which is skipped.
        self._heap: list[tuple[float, float, int, Hashable]] = []
        self.nbytes = 0

    def add(self, candidate: Candidate) -> None:
        """Enter a candidate, in place of one of the same key; not if it is to stay."""
        self.discard(candidate.key)
        if not candidate.ways or candidate.nbytes <= 0:
            return
        try:
            way, (class_, position) = self._judge(self._policy, candidate)
        except Exception:  # a policy may be anybody's: it must not break a put
            logger.exception("the eviction policy fails: %s is used instead", Adaptive.__name__)
            self._policy = Adaptive()
            way, (class_, position) = self._judge(self._policy, candidate)
        if way is None:
            return
        serial = next(self._serial)
        self._entries[candidate.key] = serial, candidate, way
        self.nbytes += candidate.nbytes
        heapq.heappush(self._heap, (class_, position, serial, candidate.key))
        if len(self._heap) > 2 * len(self._entries) + 64:
            self._heap = [e for e in self._heap if self._is_current(e[2], e[3])]
            heapq.heapify(self._heap)

    def _judge(self, policy: Policy, candidate: Candidate) -> tuple[str | None, Rank]:
        way = policy.way(candidate)
        if way is not None and way not in candidate.ways:
            raise ValueError(f"the policy chose {way!r}, which is no way of {candidate}")
        class_, position = policy.rank(candidate, self._floor)
        if not (math.isfinite(class_) and math.isfinite(position)):
            raise ValueError(f"a rank is two finite numbers, not {class_!r}, {position!r}")
        return way, (class_, position)

    def discard(self, key: Hashable) -> None:
        """Take a candidate out, if it is in."""
        if entry := self._entries.pop(key, None):
            self.nbytes -= entry[1].nbytes

    def pop(self) -> tuple[Candidate, str] | None:
        """Take out what goes next, and in which way; None if there is nothing."""
        while self._heap:
            _, position, serial, key = heapq.heappop(self._heap)
            if self._is_current(serial, key):
                _, candidate, way = self._entries.pop(key)
                self.nbytes -= candidate.nbytes
                self._floor = max(self._floor, position)
                return candidate, way
        return None

    def _is_current(self, serial: int, key: Hashable) -> bool:
        return key in self._entries and self._entries[key][0] == serial
