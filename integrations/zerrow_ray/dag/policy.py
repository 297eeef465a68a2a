"""Which results of a DAG are rolled back: what the policy of the stores says of them.

A result that is in the way can be *rolled back*: dropped, and made again when it is asked for. Or
it can stay: the store then spills it to disk, if nobody reads it.
"""

from collections.abc import Iterable

from zerrow_store.node.policy import Candidate, Policy

ROLLBACK = "rollback"


def choose_rollbacks(
    policy: Policy, candidates: Iterable[Candidate], excess: int
) -> list[Candidate]:
    """Return what to roll back so that `excess` bytes less are held, or as many as are to be."""
    if excess <= 0:
        return []
    going = [each for each in candidates if policy.way(each) == ROLLBACK]
    chosen = []
    for candidate in sorted(going, key=lambda each: policy.rank(each, 0.0)):
        if excess <= 0:
            break
        chosen.append(candidate)
        excess -= candidate.nbytes
    return chosen
