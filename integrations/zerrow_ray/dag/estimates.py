"""What steps are expected to need, learned from what they needed before.

For each function: the result's bytes, and the most it held while it ran, per byte of input (or, for
those without input, in bytes). The last runs count most. Kept by the driver's process.
"""

import threading
from dataclasses import dataclass

_WEIGHT = 0.5
"""Of the newest run, against all before."""

# A function that nobody has seen run is taken to return as much as it is given.
_UNKNOWN_RATIO = 1.0


@dataclass(frozen=True)
class Need:
    """Bytes: `result` stays after the step, `peak` is held while it runs, the result included."""

    result: int
    peak: int


@dataclass
class _Learned:
    result: float
    peak: float


class Estimates:
    """See the module. Safe to use from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._learned: dict[tuple[str, bool], _Learned] = {}

    def need(self, function: str, input_bytes: int, declared: int | None) -> Need:
        """Return what a run is expected to need. declared: its `memory` option, in bytes."""
        with self._lock:
            learned = self._learned.get((function, input_bytes > 0))
        unit = input_bytes or 1
        if learned is None:
            result = int(_UNKNOWN_RATIO * input_bytes)
            return Need(result, declared if declared is not None else result)
        result = int(learned.result * unit)
        peak = declared if declared is not None else int(learned.peak * unit)
        return Need(result, max(peak, result))

    def learn(self, function: str, input_bytes: int, result: int, peak: int) -> None:
        """Take in what a run needed."""
        key, unit = (function, input_bytes > 0), input_bytes or 1
        with self._lock:
            learned = self._learned.setdefault(key, _Learned(result / unit, peak / unit))
            learned.result += _WEIGHT * (result / unit - learned.result)
            learned.peak += _WEIGHT * (peak / unit - learned.peak)
