"""Leases that may have ended with their process, and not with the last use of their objects.

Whoever takes an item of a stream over takes over its lease, too, but it takes a moment until the
lease's owner knows. A producer that dies in that moment cuts the lease off. What was published then
is kept: at worst too long.
"""

import time
from collections.abc import Hashable

SETTLING_SECONDS = 1.0
"""From the publication on, how long a producer keeps a lease at most, for others to have it."""

_HEARD_SECONDS = 10.0
"""After a producer's death, how long the end of a lease may be due to it."""


class Settling:
    """Leases that connections have just announced, and of those, what has ended since."""

    def __init__(self) -> None:
        self._begun: dict[Hashable, dict[bytes, float]] = {}
        self._cut: dict[bytes, float] = {}

    def began(self, producer: Hashable, object_id: bytes) -> None:
        """Note that an object's lease is in the hands of its producer alone."""
        now = time.monotonic()
        begun = self._begun.setdefault(producer, {})
        begun[object_id] = now
        while (oldest := next(iter(begun))) and begun[oldest] < now - SETTLING_SECONDS:
            del begun[oldest]

    def over(self, producer: Hashable, object_id: bytes) -> None:
        """Note that others have it, too."""
        self._begun.get(producer, {}).pop(object_id, None)

    def ended(self, producer: Hashable) -> None:
        """Note that a connection has ended."""
        now = time.monotonic()
        self._cut = {object_id: until for object_id, until in self._cut.items() if until > now}
        for object_id, began in self._begun.pop(producer, {}).items():
            if began > now - SETTLING_SECONDS:
                self._cut[object_id] = now + _HEARD_SECONDS

    def may_be_cut(self, object_id: bytes) -> bool:
        """Whether a lease that ends now may have been cut off."""
        return self._cut.pop(object_id, 0.0) > time.monotonic()
