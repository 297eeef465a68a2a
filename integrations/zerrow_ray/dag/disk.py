"""What it costs to leave a result to the stores, which write it to disk.

They write while functions run. What somebody waits for is that all that was left to them before is
written, the processor that copies the bytes, and the reading. So a disk that has nothing to do is
cheap, and what a busy one cannot take in time is better made again.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

_REFRESH_SECONDS = 2.0


@dataclass(frozen=True)
class Speed:
    """Seconds for a byte: until it is written, of a processor for that, and to read it."""

    write: float
    write_processor: float
    read: float


class Disk:
    """The slowest node's disk. measure: returns its speed; asked every other second. Safe to use
    from any thread.
    """

    def __init__(
        self,
        measure: Callable[[], Speed],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._measure = measure
        self._clock = clock
        self._lock = threading.Lock()
        self._asked = float("-inf")
        self._speed = Speed(0.0, 0.0, 0.0)
        self._busy_until = float("-inf")

    def seconds(self, nbytes: int) -> float:
        """Return what it costs to leave so many bytes to it now, and to have them back."""
        with self._lock:
            self._refresh()
            queue = max(0.0, self._busy_until - self._clock())
            return queue + nbytes * (self._speed.write_processor + self._speed.read)

    def take(self, nbytes: int) -> None:
        """Note that so many bytes were left to it."""
        with self._lock:
            self._refresh()
            self._busy_until = max(self._busy_until, self._clock()) + nbytes * self._speed.write

    def _refresh(self) -> None:
        if self._clock() - self._asked > _REFRESH_SECONDS:
            self._speed = self._measure()
            self._asked = self._clock()
