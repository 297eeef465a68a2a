"""Estimates of what a step needs, learned from earlier runs of its function.

For each function, per byte of input: the result's bytes, how many of them are new, the peak while
it runs, and its seconds. For steps without input: in bytes, also per set of arguments. Recent runs
count most. The driver's process keeps them.
"""

import threading
from dataclasses import dataclass

_WEIGHT = 0.5
"""Of the newest run, against all earlier ones."""

_MOST_FUNCTIONS = 10_000
"""Counted with their arguments. The oldest is forgotten."""


@dataclass(frozen=True)
class Need:
    """What a step needs.

    Attributes
    ----------
    new
        Bytes of the result that are in no segment yet.
    peak
        Bytes in use while it runs, `new` included.
    result
        Size of the result, with all that it refers to.
    seconds
        How long it runs.
    is_guess
        Whether the function has never run but will report what it needs.
    """

    new: int
    peak: int
    result: int
    seconds: float = 0.0
    is_guess: bool = False


@dataclass(frozen=True)
class Function:
    """The subject of an estimate.

    Attributes
    ----------
    name
        The function's name.
    arguments
        Of a step without input: a digest of the arguments, "" if they are not plain values.
    """

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
        # The first run also imports modules, so it says little about the next one.
        self.seconds += (1.0 if self.is_first else _WEIGHT) * (seconds - self.seconds)
        self.is_first = False


class Estimates:
    """The estimates of all functions. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._learned: dict[tuple[Function, bool], _Learned] = {}

    def need(self, function: Function, given: int, declared: int | None) -> Need | None:
        """Return what a run is expected to need; None for a function that has never run.

        Parameters
        ----------
        function
            The step's function.
        given
            Bytes of input.
        declared
            Its `memory` option, in bytes.
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
        """Return the seconds of a step without input; None if its arguments are unknown.

        A single run tells little: one in fresh memory may take ten times as long.
        """
        with self._lock:
            learned = self._learned.get((function, False)) if function.arguments else None
        return None if learned is None else learned.seconds

    def learn(self, function: Function, given: int, needed: Need, seconds: float) -> None:
        """Take in what a run with `given` bytes of input needed."""
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
    """Return the guess for a function that has never run: as many bytes as its input has."""
    return Need(given, given if declared is None else declared, given, is_guess=is_guess)
