"""What to do with results that are in the way: a policy for each answer.

A result that is not needed next can be *rolled back*: dropped, and made again when it is asked for.
Or it can stay: the store then spills it to disk ("swap"). Which costs less depends on how long its
function takes.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Candidate:
    """The result of step `key`, in bytes, and the seconds that it takes to make it again."""

    key: str
    nbytes: int
    seconds: float


class Policy(Protocol):
    """Chooses what is rolled back."""

    def choose(self, candidates: Iterable[Candidate], excess: int) -> list[Candidate]:
        """Return what to roll back so that `excess` bytes less are held, or as many as pay."""


class Swap:
    """Everything stays; the store spills what nobody reads."""

    def choose(self, candidates: Iterable[Candidate], excess: int) -> list[Candidate]:
        """Return nothing."""
        return []


class Rollback:
    """As much as is in the way goes, what is cheapest to make again per byte first."""

    def choose(self, candidates: Iterable[Candidate], excess: int) -> list[Candidate]:
        """Return the cheapest until there is room."""
        chosen = []
        for candidate in sorted(candidates, key=lambda each: each.seconds / each.nbytes):
            if excess <= 0:
                break
            chosen.append(candidate)
            excess -= candidate.nbytes
        return chosen


class Adaptive:
    """Goes what is quicker made again than written to disk and read back.

    bandwidth: the bytes a second that the disk writes; it is taken to read as many.
    """

    def __init__(self, bandwidth: Callable[[], float]) -> None:
        self._bandwidth = bandwidth

    def choose(self, candidates: Iterable[Candidate], excess: int) -> list[Candidate]:
        """Return the cheapest of those that pay until there is room."""
        seconds_per_byte = 2 / self._bandwidth()
        paying = (c for c in candidates if c.seconds < seconds_per_byte * c.nbytes)
        return Rollback().choose(paying, excess)
