"""A store's figures over time: of the last hour every five seconds, of the last day every two
minutes. They begin with the server.
"""

from collections import deque
from collections.abc import Callable

from zerrow_store.protocol.reports import Sample

_STEPS = ((5.0, 720), (120.0, 720))
"""Seconds between two samples, and how many are kept; the shortest first."""


class History:
    """See the module."""

    def __init__(self) -> None:
        self._kept: list[deque[Sample]] = [deque(maxlen=most) for _, most in _STEPS]
        self._due = [0.0 for _ in _STEPS]

    def tick(self, now: float, sample: Callable[[], Sample]) -> None:
        """Take a sample, if it is time for one."""
        due = [i for i, at in enumerate(self._due) if now >= at]
        if due:
            taken = sample()
            for i in due:
                self._kept[i].append(taken)
                self._due[i] = now + _STEPS[i][0]

    def rows(self) -> list[Sample]:
        """Return the samples, the oldest first."""
        newest, *older = self._kept
        rows = list(newest)
        for kept in older:
            rows = [row for row in kept if not rows or row.when < rows[0].when] + rows
        return rows
