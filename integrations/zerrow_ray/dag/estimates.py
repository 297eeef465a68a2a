"""What steps are expected to need, learned from what they needed before.

For each function: the result's bytes, how many of them are new, the most it held while it ran, and
the seconds it took, per byte of input. Of those without input, in bytes, for each set of arguments
too. The last runs count most. Kept by the driver's process.
"""

import threading
from dataclasses import dataclass

_WEIGHT = 0.5
"""Of the newest run, against all before."""

_MOST_FUNCTIONS = 10_000
"""With their arguments. The oldest is forgotten."""


@dataclass(frozen=True)
class Need:
    """Bytes: `new` stays after the step, `peak` is held while it runs, with what is new; `result`
    is the size of the result, with what it refers to of others'. seconds: how long it runs.
    is_guess: nobody has seen the function run, but that is going to be seen.
    """

    new: int
    peak: int
    result: int
    seconds: float = 0.0
    is_guess: bool = False


@dataclass(frozen=True)
class Function:
    """What is learned about. arguments: of a step without input, as far as they are known."""

    name: str
    arguments: str = ""


@dataclass
class _Learned:
    new: float
    peak: float
    result: float
    seconds: float
    is_first: bool = True

    def average(self, new: float, peak: float, result: float, seconds: float) -> None:
        self.new += _WEIGHT * (new - self.new)
        self.peak += _WEIGHT * (peak - self.peak)
        self.result += _WEIGHT * (result - self.result)
        # The first run also imports what it needs; no other one says as little of the next.
        self.seconds += (1.0 if self.is_first else _WEIGHT) * (seconds - self.seconds)
        self.is_first = False


class Estimates:
    """See the module. Safe to use from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._learned: dict[tuple[Function, bool], _Learned] = {}

    def need(self, function: Function, given: int, declared: int | None) -> Need | None:
        """Return what a run is expected to need; None for a function that nobody has seen run.

        given: bytes of input. declared: its `memory` option, in bytes.
        """
        with self._lock:
            learned = self._learned.get((function, given > 0)) or self._learned.get(
                (Function(function.name), given > 0)
            )
        if learned is None:
            return None
        unit = given or 1
        new = int(learned.new * unit)
        peak = declared if declared is not None else int(learned.peak * unit)
        result = max(new, int(learned.result * unit))
        return Need(new, max(peak, new), result, learned.seconds * unit)

    def seconds(self, function: Function) -> float | None:
        """Return what a step without input takes; None where its arguments are not known. A single
        run tells little: one that has to take fresh memory may last ten times as long.
        """
        with self._lock:
            learned = self._learned.get((function, False)) if function.arguments else None
        return None if learned is None else learned.seconds

    def learn(self, function: Function, given: int, needed: Need, seconds: float) -> None:
        """Take in what a run needed."""
        unit = given or 1
        ratios = needed.new / unit, needed.peak / unit, needed.result / unit, seconds / unit
        with self._lock:
            for key in {(function, given > 0), (Function(function.name), given > 0)}:
                if key in self._learned:
                    self._learned[key].average(*ratios)
                    continue
                self._learned[key] = _Learned(*ratios)
                if len(self._learned) > _MOST_FUNCTIONS:
                    del self._learned[next(iter(self._learned))]


def unknown(given: int, declared: int | None, *, is_guess: bool) -> Need:
    """Return what a function that nobody has seen run is taken to need: as much as it is given."""
    return Need(given, given if declared is None else declared, given, is_guess=is_guess)
