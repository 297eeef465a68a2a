"""The record of evictions."""

from collections import deque
from collections.abc import Hashable

from zerrow_store.protocol.reports import Eviction

_MOST_RECORDS = 1000

WAYS = ("drop", "spill", "rollback")


class Records:
    """The newest evictions, and the sums of all by way. Not in the object table: a store that is
    started again begins anew.
    """

    def __init__(self) -> None:
        self._newest: deque[tuple[Hashable, Eviction]] = deque()
        self._open: dict[Hashable, Eviction] = {}
        summed = ("count", "bytes", "expected_seconds", "seconds")
        # Floats: clients say how many bytes they have rolled back, and integers travel as 64 bits.
        self.totals = {way: dict.fromkeys(summed, 0.0) for way in WAYS}

    def add(self, key: Hashable, record: Eviction) -> None:
        """Enter an eviction; `key` is what its return is known by."""
        if len(self._newest) == _MOST_RECORDS:
            oldest_key, oldest = self._newest.popleft()
            if self._open.get(oldest_key) is oldest:
                del self._open[oldest_key]
        self._newest.append((key, record))
        self._open[key] = record
        totals = self.totals[record.way]
        totals["count"] += 1
        totals["bytes"] += record.nbytes
        totals["expected_seconds"] += record.expected
        totals["seconds"] += record.seconds

    def returned(self, key: Hashable, seconds: float) -> bool:
        """Note what it took to have evicted bytes back; whether they were, for the first time."""
        record = self._open.get(key)
        if record is None:
            return False
        is_first, record.returned = not record.returned, True
        record.seconds += seconds
        self.totals[record.way]["seconds"] += seconds
        return is_first

    def rows(self) -> list[Eviction]:
        """Return them, the oldest first."""
        return [record for _, record in self._newest]
