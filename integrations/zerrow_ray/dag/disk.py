"""The cost of spilling a result.

The stores write while functions run. A step that waits for a spilled result waits until everything
spilled earlier is written, for the processor that copies the bytes, and for the read. So an idle
disk is cheap, and a result that a busy disk cannot take in time is better made again.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

_REFRESH_SECONDS = 2.0


@dataclass(frozen=True)
class Speed:
    """Seconds per byte.

    Attributes
    ----------
    write
        Until it is written.
    write_processor
        Of processor time for the write.
    read
        To read it back.
    """

    write: float
    write_processor: float
    read: float


class Disk:
    """The disk of the slowest node. Thread-safe.

    Parameters
    ----------
    measure
        Returns its speed. Called at most every other second.
    clock
        Returns seconds.
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
        """Return the seconds that it costs to spill bytes now and read them back."""
        with self._lock:
            self._refresh()
            queue = max(0.0, self._busy_until - self._clock())
            return queue + nbytes * (self._speed.write_processor + self._speed.read)

    def take(self, nbytes: int) -> None:
        """Note that bytes were spilled."""
        with self._lock:
            self._refresh()
            self._busy_until = max(self._busy_until, self._clock()) + nbytes * self._speed.write

    def _refresh(self) -> None:
        if self._clock() - self._asked > _REFRESH_SECONDS:
            self._speed = self._measure()
            self._asked = self._clock()
