"""Eviction policies: the order in which idle objects make room.

A candidate is something that nobody reads now. Each *way* of giving it up has an expected cost, in
seconds, of doing it and of having the bytes back once: "drop" (a decoded column: decode it again),
"spill" (write it to disk and read it), "rollback" (a step's result: run its function again).

A policy is a stateless class with two methods. Name your own as "module:Class" wherever a policy is
chosen.
"""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Protocol

Rank = tuple[float, float]
"""(class, position in it): the lowest goes first."""

# Where there is no disk to compare with: one of 500 MB/s, written and read.
_USUAL_SECONDS_PER_BYTE = 4e-9

RECREATE = ("drop", "rollback")
"""The ways after which the bytes are made again."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """An object that may be evicted.

    Attributes
    ----------
    key
        Its id.
    nbytes
        The bytes that its eviction frees.
    ways
        The expected seconds of each way.
    idle_since
        The time at which it became idle, by a clock that all candidates share.
    next_use
        In a DAG, the number of steps until its next use; else 1.
    """

    key: Hashable
    nbytes: int
    ways: Mapping[str, float]
    idle_since: float
    next_use: float = 1.0


class Policy(Protocol):
    """See the module."""

    def way(self, candidate: Candidate) -> str | None:
        """Return the way in which it goes; None if it stays."""

    def rank(self, candidate: Candidate, floor: float) -> Rank:
        """Return the candidate's rank. It is asked once, when the candidate becomes idle.

        floor: the highest position evicted so far. Adding it to the costs ages old candidates.
        """


class Adaptive:
    """Evicts the lowest cost per byte first, each in its cheapest way; idle objects age
    (GreedyDual-Size, Cao and Irani, 1997). In a DAG the cost is divided by the distance to the next
    use (Belady, 1966).

    Costs are relative to the disk's, so a new measurement of the disk does not reorder old
    candidates.
    """

    def way(self, candidate: Candidate) -> str | None:
        """Return the cheapest way."""
        return min(candidate.ways, key=candidate.ways.__getitem__, default=None)

    def rank(self, candidate: Candidate, floor: float) -> Rank:
        """Return the relative cost of a byte, from the floor up."""
        disk = candidate.ways.get("spill", candidate.nbytes * _USUAL_SECONDS_PER_BYTE)
        return 0.0, floor + min(candidate.ways.values()) / disk / candidate.next_use


class Swap:
    """Spills everything: in a DAG what is used last comes first, else what is idle longest."""

    def way(self, candidate: Candidate) -> str | None:
        """Return "spill" if there is a disk to spill to."""
        if "spill" in candidate.ways:
            return "spill"
        return "drop" if "drop" in candidate.ways else None

    def rank(self, candidate: Candidate, floor: float) -> Rank:
        """Return the distance to the next use, and the time since when it is idle."""
        return -candidate.next_use, candidate.idle_since


class Rollback:
    """Prefers ways that make the bytes again, the cheapest per byte first; spills the rest."""

    def way(self, candidate: Candidate) -> str | None:
        """Return a way to make it again, or else any."""
        return next((way for way in RECREATE if way in candidate.ways), _first(candidate))

    def rank(self, candidate: Candidate, floor: float) -> Rank:
        """Return the seconds per byte; what only the disk can bring back comes last."""
        way = self.way(candidate)
        if way is None:
            return 0.0, 0.0
        seconds = candidate.ways[way] / candidate.next_use
        return float(way == "spill"), seconds / candidate.nbytes


class Lru:
    """The longest idle first, each in its cheapest way."""

    def way(self, candidate: Candidate) -> str | None:
        """Return the cheapest way."""
        return min(candidate.ways, key=candidate.ways.__getitem__, default=None)

    def rank(self, candidate: Candidate, floor: float) -> Rank:
        """Return since when it is idle."""
        return 0.0, candidate.idle_since


class Keep:
    """Nothing goes: what does not fit is refused."""

    def way(self, candidate: Candidate) -> str | None:
        """Return None."""
        return None

    def rank(self, candidate: Candidate, floor: float) -> Rank:
        """Return the same for all."""
        return 0.0, 0.0


POLICIES: dict[str, type[Policy]] = {
    "adaptive": Adaptive,
    "swap": Swap,
    "rollback": Rollback,
    "lru": Lru,
    "none": Keep,
}
"""By name. "adaptive" is the default everywhere."""


def load_policy(name: str) -> Policy:
    """Return the policy of this name, or of the class "module:Class".

    Raises ValueError if there is none; what a module of somebody's own raises as it is imported.
    """
    if name in POLICIES:
        return POLICIES[name]()
    module, colon, attribute = name.partition(":")
    if not colon:
        known = ", ".join(POLICIES)
        raise ValueError(f"an eviction policy is one of {known}, or module:Class, not {name!r}")
    try:
        found = getattr(import_module(module), attribute)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"there is no eviction policy {name!r}: {error}") from error
    if missing := [each for each in ("way", "rank") if not callable(getattr(found, each, None))]:
        raise ValueError(f"{name!r} is no eviction policy: it has no {' and no '.join(missing)}")
    policy: Policy = found()
    return policy


def _first(candidate: Candidate) -> str | None:
    return next(iter(candidate.ways), None)
