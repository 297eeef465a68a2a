"""The choice of a DAG's results that make room for its next step.

A result can be *rolled back*: dropped, and made again when a step needs it. Or it can be *spilled*:
left to the store, which writes unread data to disk when memory is short. The stores' policy
decides. The order in which results will be read is known, so the one read last goes first. Nothing
goes for a step whose own result is read later, if waiting serves that step as well.
"""

import math
from collections.abc import Callable, Iterable, Iterator

from zerrow_ray.dag.budget import Account
from zerrow_ray.dag.disk import Disk
from zerrow_ray.dag.estimates import Need
from zerrow_ray.dag.plan import Step
from zerrow_ray.dag.progress import Progress
from zerrow_store.policy import Candidate, Policy

ROLLBACK = "rollback"
SPILL = "spill"

Chosen = list[tuple[Candidate, str]]
"""Candidates, each with ROLLBACK or SPILL."""

_MOST_ROLLBACKS = 3
"""Of one step. After that its result stays, and the store spills it."""


def choose(policy: Policy, candidates: Iterable[Candidate], excess: int) -> Chosen:
    """Return the candidates to evict, in the policy's order, until `excess` bytes are freed."""
    chosen: Chosen = []
    for candidate in sorted(candidates, key=lambda each: policy.rank(each, 0.0)):
        if excess <= 0:
            break
        if way := policy.way(candidate):
            chosen.append((candidate, way))
            excess -= candidate.nbytes
    return chosen


class Eviction:
    """Evicts results of one run.

    Parameters
    ----------
    progress, account
        The run's state and memory.
    policy
        Ranks candidates.
    need
        Returns what a step needs.
    seconds
        Returns how long a finished step takes to run again; None if it must not.
    disk
        Has the cost of spilling.
    """

    def __init__(
        self,
        progress: Progress,
        account: Account,
        policy: Policy,
        *,
        need: Callable[[Step], Need],
        seconds: Callable[[Step], float | None],
        disk: Disk,
    ) -> None:
        self._progress = progress
        self._account = account
        self._policy = policy
        self._need = need
        self._seconds = seconds
        self._disk = disk

    def choose(self, starting: Step, excess: int) -> Chosen:
        """Return the results to evict for a step, so that `excess` bytes less are in use."""
        candidates = self._candidates(starting)
        if self._progress.running:
            candidates = self._worthwhile(candidates, starting)
        return choose(self._policy, candidates, excess)

    def evict(self, candidate: Candidate, way: str) -> None:
        """Roll back or spill a result."""
        key = str(candidate.key)
        if way == SPILL:
            self._disk.take(candidate.nbytes)
            self._progress.spilled.add(key)
            self._account.drop(key, self._progress.sharers(key))
        else:
            self.roll_back(key)

    def roll_back(self, key: str) -> None:
        """Drop a result, whose step is to run again."""
        self._progress.roll_back(key)
        self._account.drop(key, self._progress.sharers(key))

    def may_run_again(self, key: str) -> bool:
        """Return whether a finished step may be rolled back."""
        again = self._seconds(self._progress.step(key)) is not None
        return again and self._progress.rollbacks[key] < _MOST_ROLLBACKS

    def _candidates(self, starting: Step) -> Iterable[Candidate]:
        progress = self._progress
        in_use = {key for each in progress.running for key in progress.step(each).inputs}
        for key in progress.present - in_use - progress.spilled - set(starting.inputs):
            if not (nbytes := self._account.freed(key, progress.sharers(key))):
                continue
            ways = {SPILL: self._disk.seconds(nbytes)}
            if key not in progress.plan.results and self.may_run_again(key):
                seconds = self._seconds_again(key)
                if seconds is not None:
                    ways[ROLLBACK] = seconds
            yield Candidate(key, nbytes, ways, progress.finished[key], progress.next_use(key))

    def _worthwhile(self, candidates: Iterable[Candidate], starting: Step) -> Iterator[Candidate]:
        """Iterate over the candidates whose eviction pays if the step starts now.

        The alternative is to wait until a step ends: for half the run time of a step, this one's
        being as good an estimate as any. A result that is read later than this step's may cost
        more. But a step that only runs ahead of its consumer runs beside the current ones, whose
        memory is free afterwards: for it, the limit is twice the run time of these.
        """
        progress = self._progress
        use, wait = progress.next_use(starting.key), self._need(starting).seconds / 2
        most = math.inf
        if not progress.is_wanted(starting):
            most = 2 * max(self._need(progress.step(key)).seconds for key in progress.running)
        for each in candidates:
            way = self._policy.way(each)
            cost = each.ways[way] if way else 0.0
            if cost < wait or (each.next_use > use and cost <= most):
                yield each

    def _seconds_again(self, key: str) -> float | None:
        """Return the time to run a step again, with all steps that must run before it."""
        progress = self._progress
        seconds = [self._seconds(progress.step(each)) for each in progress.steps_to_repeat(key)]
        return None if None in seconds else sum(filter(None, seconds))
