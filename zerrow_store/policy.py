"""Eviction policies: what goes first when memory is short, and in which way.

A candidate is something that nobody reads now. Each *way* of giving it up has an expected cost, in
seconds, of doing it and of having the bytes back once: "drop" (a decoded column: decode it again),
"spill" (write it to disk and read it), "rollback" (a step's result: run its function again).

A policy is stateless, and two small questions. An own one is a class with these two methods, named
"module:Class" where the name of a policy is asked for.
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
    """`key` names it to its owner. ways: seconds, by way. idle_since: by a clock that all share.

    next_use: how far off that is, where it is known: in a DAG, in steps. What is not used for long
    makes room for long.
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
        """Return its place in the order of eviction, given when it becomes idle.

        floor: the highest position that was evicted so far; what adds it to its costs lets old
        candidates age against new ones.
        """


class Adaptive:
    """The cheapest per byte first, each in its cheapest way, and unused ones age: GreedyDual-Size
    (Cao and Irani, 1997). At equal cost, the longest idle. Where it is known when each is used
    again, the cheapest for the time that it is away: of equal ones the last (Belady, 1966).

    Costs are in units of what the disk would take for the same bytes, as the disk is measured
    better and better: what was left to it earlier is not to seem dearer for that.
    """

    def way(self, candidate: Candidate) -> str | None:
        """Return the cheapest."""
        return min(candidate.ways, key=candidate.ways.__getitem__, default=None)

    def rank(self, candidate: Candidate, floor: float) -> Rank:
        """Return the relative cost of a byte, from the floor up."""
        disk = candidate.ways.get("spill", candidate.nbytes * _USUAL_SECONDS_PER_BYTE)
        return 0.0, floor + min(candidate.ways.values()) / disk / candidate.next_use


class Swap:
    """Everything keeps its bytes: on disk, where there is one. What is used last, where that is
    known, and the longest idle first.
    """

    def way(self, candidate: Candidate) -> str | None:
        """Return "spill" if there is a disk to spill to."""
        if "spill" in candidate.ways:
            return "spill"
        return "drop" if "drop" in candidate.ways else None

    def rank(self, candidate: Candidate, floor: float) -> Rank:
        """Return when it is used, and since when it is idle."""
        return -candidate.next_use, candidate.idle_since


class Rollback:
    """What can be made again goes first, the cheapest per byte of it and for the time that it is
    away; the rest to disk.
    """

    def way(self, candidate: Candidate) -> str | None:
        """Return a way to make it again, or else any."""
        return next((way for way in RECREATE if way in candidate.ways), _first(candidate))

    def rank(self, candidate: Candidate, floor: float) -> Rank:
        """Return the seconds per byte, what only the disk can bring back after all else."""
        way = self.way(candidate)
        if way is None:
            return 0.0, 0.0
        seconds = candidate.ways[way] / candidate.next_use
        return float(way == "spill"), seconds / candidate.nbytes


class Lru:
    """The longest idle first, each in its cheapest way."""

    def way(self, candidate: Candidate) -> str | None:
        """Return the cheapest."""
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
