"""Which results of a DAG make room for its next step: what the policy of the stores says of them.

A result that is in the way can be *rolled back*: dropped, and made again when it is asked for. Or
it is *spilled*: left to the store, which writes to disk what nobody reads when memory is short.
"""

from collections.abc import Iterable

from zerrow_store.policy import Candidate, Policy

ROLLBACK = "rollback"
SPILL = "spill"

Chosen = list[tuple[Candidate, str]]
"""Candidates, each with the way in which it goes."""


def choose(policy: Policy, candidates: Iterable[Candidate], excess: int) -> Chosen:
    """Return what is to go so that `excess` bytes less are held, or as much as may."""
    chosen: Chosen = []
    for candidate in sorted(candidates, key=lambda each: policy.rank(each, 0.0)):
        if excess <= 0:
            break
        if way := policy.way(candidate):
            chosen.append((candidate, way))
            excess -= candidate.nbytes
    return chosen


def cost(policy: Policy, candidate: Candidate) -> float:
    """Return the seconds that it takes to give a candidate up, and to have it back."""
    way = policy.way(candidate)
    return candidate.ways[way] if way else 0.0
