"""Which step starts next: a state machine without clock or Ray, so that it can be tested whole.

Depth first where memory is short, side by side where it is not: of the steps that are ready, one
that lets go of its inputs goes before one that opens a new branch. A step starts when its peak fits
beside all that is held. When nothing runs and nothing fits, the policy may roll results back; then
the best step starts, whether it fits now or not: a DAG always advances, and never exceeds the
budget by more than one step.

A result that was rolled back is made again when all else that its consumer needs is there.
"""

import itertools
from collections import Counter
from collections.abc import Callable, Iterable

from zerrow_ray.dag.budget import Account
from zerrow_ray.dag.estimates import Need
from zerrow_ray.dag.plan import Plan, Step
from zerrow_ray.dag.policy import ROLLBACK, choose_rollbacks
from zerrow_store.node.policy import Candidate, Policy

_MOST_ROLLBACKS = 3
"""Of one step: then its result stays, and the store spills it."""


class Scheduler:
    """The run of one plan. need: what a step needs, once its inputs are there.

    seconds: what the last run of a finished step took, None if it must not run twice. disk: what
    it takes to write bytes to disk and read them.
    """

    def __init__(
        self,
        plan: Plan,
        account: Account,
        policy: Policy,
        *,
        need: Callable[[Step], Need],
        seconds: Callable[[Step], float | None],
        disk: Callable[[int], float],
    ) -> None:
        self._plan = plan
        self._account = account
        self._policy = policy
        self._need = need
        self._seconds = seconds
        self._disk = disk
        self._finishes = itertools.count()
        self._finished: dict[str, int] = {}
        self._unfinished = set(plan.steps)
        self._present: set[str] = set()
        self._running: set[str] = set()
        self._rolled: set[str] = set()
        self._rollbacks: Counter[str] = Counter()
        self._sizes: dict[str, int] = {}

    @property
    def done(self) -> bool:
        """Whether all steps have finished."""
        return not self._unfinished

    def start(self) -> tuple[Step | None, list[Candidate]]:
        """Return a step to start now, its memory taken from the account, or None if it has to wait;
        and what was rolled back for it, whose values are to be dropped.
        """
        self._account.waits = False
        ready = sorted(
            (s for s in map(self._step, self._unfinished) if self._ready(s)), key=self._urgency
        )
        for step in ready:
            if self._asked_for(step) and self._account.take(step.key, self._need(step).peak):
                return self._begin(step), []
        if not ready or self._running:
            return None, []
        step = next(filter(self._asked_for, ready), ready[0])
        peak = self._need(step).peak
        excess = self._account.excess(peak)
        rolled = choose_rollbacks(self._policy, self._candidates(step), excess)
        for candidate in rolled:
            self._roll_back(str(candidate.key))
        if self._account.take(step.key, peak, anyway=True):
            return self._begin(step), rolled
        return None, rolled

    def finish(self, key: str, result_bytes: int) -> list[str]:
        """Note that a step has finished; returns the steps whose results nobody will ask for."""
        self._running.discard(key)
        self._unfinished.discard(key)
        self._rolled.discard(key)
        self._present.add(key)
        self._sizes[key] = result_bytes
        self._finished[key] = next(self._finishes)
        self._account.keep(key, result_bytes)
        released = [
            each
            for each in (key, *self._plan.steps[key].inputs)
            if each in self._present and not self._is_needed(each)
        ]
        for each in released:
            self._present.discard(each)
            self._account.drop(each)
        return released

    # --- what is ready ---

    def _step(self, key: str) -> Step:
        return self._plan.steps[key]

    def _ready(self, step: Step) -> bool:
        return step.key not in self._running and self._present.issuperset(step.inputs)

    def _asked_for(self, step: Step) -> bool:
        """Whether a step is to run now: if it was rolled back, when its result is all that is
        missing.
        """
        if step.key not in self._rolled:
            return True
        consumers = (self._step(key) for key in step.consumers if key in self._unfinished)
        there = self._present | self._rolled
        return any(there.issuperset(each.inputs) and self._asked_for(each) for each in consumers)

    def _begin(self, step: Step) -> Step:
        self._running.add(step.key)
        return step

    def _urgency(self, step: Step) -> tuple[int, int]:
        """Sorts first what lets go of most inputs, then what comes first depth first."""
        last = sum(
            key not in self._plan.results and self._unfinished_consumers(key) == {step.key}
            for key in step.inputs
        )
        return -last, step.order

    def _is_needed(self, key: str) -> bool:
        return key in self._plan.results or bool(self._unfinished_consumers(key))

    def _unfinished_consumers(self, key: str) -> set[str]:
        return self._unfinished.intersection(self._step(key).consumers)

    # --- rolling back ---

    def _candidates(self, starting: Step) -> Iterable[Candidate]:
        """What may be rolled back for a step, and what it would take to make it again."""
        for key in self._present - set(starting.inputs) - self._plan.results:
            if self._sizes[key] and self._rollbacks[key] < _MOST_ROLLBACKS:
                seconds = self._seconds_again(key, set())
                if seconds is not None:
                    ways = {"spill": self._disk(self._sizes[key]), ROLLBACK: seconds}
                    yield Candidate(key, self._sizes[key], ways, self._finished[key])

    def _seconds_again(self, key: str, counted: set[str]) -> float | None:
        """What it takes to run a step again, and all that it needs and that is not there."""
        if key in counted:
            return 0.0
        counted.add(key)
        total = self._seconds(self._step(key))
        if total is None:
            return None
        for source in self._step(key).inputs:
            if source not in self._present:
                again = self._seconds_again(source, counted)
                if again is None:
                    return None
                total += again
        return total

    def _roll_back(self, key: str) -> None:
        self._present.discard(key)
        self._account.drop(key)
        self._rollbacks[key] += 1
        missing = [key]
        while missing:
            key = missing.pop()
            self._unfinished.add(key)
            self._rolled.add(key)
            missing += [
                source
                for source in self._step(key).inputs
                if source not in self._present and source not in self._unfinished
            ]
