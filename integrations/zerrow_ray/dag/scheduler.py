"""Which step starts next: a state machine without clock or Ray, so that it can be tested whole.

The first one starts when the budget lets the DAG begin (see `zerrow_ray.dag.budget`). Depth first
where memory is short, side by side where it is not: of the steps that are ready, one that lets go
of its inputs goes before one that opens a new branch. A step starts when its peak fits beside all
that is held. While none fits and there are processors left, results that no running step reads
make room, as the policy says: they are rolled back, or left to the store to spill, which then hold
no memory any more. When nothing runs and nothing helps, the best step starts all the same: a DAG
that has begun always advances, and never exceeds the budget by more than one step.

A result that was rolled back is made again when all else that its consumer needs is there. So is
one that was lost, as when its file on disk is spoiled.
"""

import itertools
from collections import Counter
from collections.abc import Callable, Iterable

from zerrow_ray.dag.budget import Account
from zerrow_ray.dag.disk import Disk
from zerrow_ray.dag.estimates import Need
from zerrow_ray.dag.plan import Plan, Step
from zerrow_ray.dag.policy import ROLLBACK, SPILL, Chosen, choose
from zerrow_store.node.policy import Candidate, Policy

_MOST_ROLLBACKS = 3
"""Of one step: then its result stays, and the store spills it."""


class Scheduler:
    """The run of one plan. slots: how many steps, of all DAGs, can run at a time, as far as the
    scheduler makes room for them. need: what a step needs, once its inputs are there. peak: what
    the whole plan is expected to hold at most, None if that is not known.

    seconds: what a finished step takes to run again, None if it must not run twice. disk: what
    it takes to have the stores spill a result.
    """

    def __init__(
        self,
        plan: Plan,
        account: Account,
        policy: Policy,
        slots: int,
        *,
        need: Callable[[Step], Need],
        peak: Callable[[], int | None],
        seconds: Callable[[Step], float | None],
        disk: Disk,
    ) -> None:
        self._plan = plan
        self._account = account
        self._policy = policy
        self._slots = slots
        self._need = need
        self._peak = peak
        self._seconds = seconds
        self._disk = disk
        self._finishes = itertools.count()
        self._finished: dict[str, int] = {}
        self._unfinished = set(plan.steps)
        self._present: set[str] = set()
        self._running: set[str] = set()
        self._rolled: set[str] = set()
        self._spilled: set[str] = set()
        self._rollbacks: Counter[str] = Counter()

    @property
    def done(self) -> bool:
        """Whether all steps have finished."""
        return not self._unfinished

    def start(self) -> tuple[Step | None, Chosen]:
        """Return a step to start now, its memory taken from the account, or None if it has to wait;
        and what went for it, of which the values of what was rolled back are to be dropped.
        """
        self._account.waits = False
        if not self._account.begin(self._peak, self._slots):
            return None, []
        ready = sorted(
            (s for s in map(self._step, self._unfinished) if self._ready(s)), key=self._urgency
        )
        for step in ready:
            if self._asked_for(step) and self._account.take(step.key, self._need(step).peak):
                return self._begin(step), []
        running = self._account.steps_at_once()
        if not ready or running >= self._slots:
            return None, []
        alone = running == 0
        wanted = next(filter(self._asked_for, ready), ready[0] if alone else None)
        if wanted is None:
            return None, []
        peak = self._need(wanted).peak
        excess = self._account.excess(peak)
        chosen = choose(self._policy, self._candidates(wanted), excess)
        if sum(candidate.nbytes for candidate, _ in chosen) < excess and not alone:
            return None, []  # it would not be enough: what runs will give memory back
        for candidate, way in chosen:
            self._evict(candidate, way)
        if self._account.take(wanted.key, peak, anyway=alone):
            return self._begin(wanted), chosen
        return None, chosen

    def finish(self, key: str, new: int, size: int) -> list[str]:
        """Note that a step has finished, what is new of its result, and that one's size; returns
        the steps whose results nobody will ask for.
        """
        self._running.discard(key)
        self._unfinished.discard(key)
        self._rolled.discard(key)
        self._present.add(key)
        self._finished[key] = next(self._finishes)
        self._account.keep(key, new, size)
        released = [
            each
            for each in (key, *self._plan.steps[key].inputs)
            if each in self._present and not self._plan.is_needed(each, self._unfinished)
        ]
        for each in released:
            self._present.discard(each)
            self._spilled.discard(each)
            self._account.drop(each, self._sharers(each))
        return released

    def retry(self, key: str, lost: list[str]) -> bool:
        """Note that a step has failed because results that it reads are lost: they are made again,
        and then the step. False if one of them cannot be, or has been too often.
        """
        if not all(map(self._may_run_again, lost)):
            return False
        self._running.discard(key)
        self._account.fail(key)
        for each in lost:
            # Steps that share an input fail one after the other.
            if each in self._present:
                self._spilled.discard(each)
                self._roll_back(each)
        return True

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

    def _unfinished_consumers(self, key: str) -> set[str]:
        return self._unfinished.intersection(self._step(key).consumers)

    # --- making room ---

    def _evict(self, candidate: Candidate, way: str) -> None:
        key = str(candidate.key)
        if way == SPILL:
            self._disk.take(candidate.nbytes)
            self._spilled.add(key)
            self._account.drop(key, self._sharers(key))
        else:
            self._roll_back(key)

    def _candidates(self, starting: Step) -> Iterable[Candidate]:
        """What may go for a step, and what it would take to have it back."""
        read = {key for each in self._running for key in self._step(each).inputs}
        for key in self._present - read - self._spilled - set(starting.inputs):
            if not (nbytes := self._account.freed(key, self._sharers(key))):
                continue
            ways = {SPILL: self._disk.seconds(nbytes)}
            if key not in self._plan.results and self._may_run_again(key):
                seconds = self._seconds_again(key, set())
                if seconds is not None:
                    ways[ROLLBACK] = seconds
            yield Candidate(key, nbytes, ways, self._finished[key])

    def _sharers(self, key: str) -> set[str]:
        """The results in memory that may refer to bytes of another one."""
        in_memory = self._present - self._spilled
        return in_memory.intersection(self._plan.made_of(key, self._unfinished))

    def _may_run_again(self, key: str) -> bool:
        again = self._seconds(self._step(key)) is not None
        return again and self._rollbacks[key] < _MOST_ROLLBACKS

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
        self._account.drop(key, self._sharers(key))
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
