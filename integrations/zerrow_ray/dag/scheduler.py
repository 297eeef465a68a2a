"""Which step starts next: a state machine without clock or Ray, so that it can be tested whole.

The first one starts when the budget lets the DAG begin (see `zerrow_ray.dag.budget`). Depth first
where memory is short, side by side where it is not: of the steps that are ready, one that lets go
of its inputs goes before one that opens a new branch. A step starts when its peak fits beside all
that is held. While none fits and there are processors left, results that no running step reads
make room, as the policy says: they are rolled back, or left to the store to spill, which then hold
no memory any more. Of functions that nobody has seen run no more steps start than there are
processors. When nothing runs and nothing helps, the best step starts all the same: a DAG
that has begun always advances, and never exceeds the budget by more than one step.

What will be read is known, and in which order: what is read last goes first, and nothing goes for a
step whose own result is read later, if that step does as well to wait.

A result that was rolled back is made again when all else that its consumer needs is there; ahead of
that if the consumer is one of the next to run and no other step wants the processor. To run two
steps side by side is worth more than most results that are kept for later: these make room for it.
What was lost, as when its file on disk is spoiled, is made again in the same way.
"""

import bisect
import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator

from zerrow_ray.dag.budget import Account
from zerrow_ray.dag.disk import Disk
from zerrow_ray.dag.estimates import Need
from zerrow_ray.dag.plan import Plan, Step
from zerrow_ray.dag.policy import ROLLBACK, SPILL, Chosen, choose, cost
from zerrow_store.policy import Candidate, Policy

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
        self._in_order = list(plan.steps.values())
        # The places in that order of what has yet to run for the first time, sorted.
        self._to_run = list(range(len(self._in_order)))
        self._present: set[str] = set()
        self._ready: set[str] = set()
        self._running: set[str] = set()
        self._rolled: set[str] = set()
        self._spilled: set[str] = set()
        self._read_ahead: set[str] = set()
        self._rollbacks: Counter[str] = Counter()
        self._look_at(plan.steps)

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
        ready = sorted(map(self._step, self._ready), key=self._urgency)
        asked_for = list(filter(self._asked_for, ready))
        if step := self._first_that_fits(asked_for):
            return step, []
        running = self._account.steps_at_once()
        if not ready or running >= self._slots:
            return None, []
        if not asked_for:
            soon = list(filter(self._is_soon_asked_for, ready))
            if step := self._first_that_fits(soon):
                return step, []
            self._account.waits = False
            if running > 0 and not soon:
                return None, []
            ready = soon or ready
        return self._make_room_for((asked_for or ready)[0], alone=running == 0)

    def finish(self, key: str, new: int, size: int) -> list[str]:
        """Note that a step has finished, what is new of its result, and that one's size; returns
        the steps whose results nobody will ask for.
        """
        self._running.discard(key)
        self._unfinished.discard(key)
        if key in self._rolled:
            self._rolled.remove(key)
        else:
            del self._to_run[bisect.bisect_left(self._to_run, self._step(key).order)]
        self._present.add(key)
        self._look_at(self._step(key).consumers)
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

    def read_ahead(self) -> list[str]:
        """Return the results left to the stores that the step reads which comes after those that
        run, each once: they can be had from the disk before that.
        """
        soon = [self._in_order[order] for order in self._to_run[: len(self._running) + 1]]
        inputs = {key for step in soon if step.key not in self._running for key in step.inputs}
        ahead = (inputs & self._spilled) - self._read_ahead
        self._read_ahead |= ahead
        return list(ahead)

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
        self._look_at([key])
        return True

    # --- what is ready ---

    def _step(self, key: str) -> Step:
        return self._plan.steps[key]

    def _look_at(self, keys: Iterable[str]) -> None:
        """Note which of these steps can run, as their inputs are there, and which not any more."""
        for key in keys:
            waits = key in self._unfinished and key not in self._running
            if waits and self._present.issuperset(self._step(key).inputs):
                self._ready.add(key)
            else:
                self._ready.discard(key)

    def _asked_for(self, step: Step) -> bool:
        """Whether a step is to run now: if it was rolled back, when its result is all that is
        missing.
        """
        if step.key not in self._rolled:
            return True
        there = self._present | self._rolled
        return any(self._readers(step.key, lambda each: there.issuperset(each.inputs)))

    def _readers(
        self, key: str, may_run: Callable[[Step], bool] = lambda _: True
    ) -> Iterator[Step]:
        """The steps that are to read a result, or what is made again of it."""
        seen: set[str] = set()
        stack = [key]
        while stack:
            for each in self._unfinished_consumers(stack.pop()) - seen:
                seen.add(each)
                if not may_run(self._step(each)):
                    continue
                if each in self._rolled:
                    stack.append(each)
                else:
                    yield self._step(each)

    def _next_use(self, key: str) -> int:
        """How many steps there are, one after the other, until one has read a result."""
        orders = (reader.order for reader in self._readers(key))
        first = min(orders, default=len(self._plan.steps))
        return 1 + bisect.bisect_left(self._to_run, first)

    def _is_soon_asked_for(self, step: Step) -> bool:
        return self._next_use(step.key) <= self._slots

    def _first_that_fits(self, steps: Iterable[Step]) -> Step | None:
        has_processor = self._account.steps_at_once() < self._slots
        for step in steps:
            need = self._need(step)
            # More is known of a function when the first of its steps have ended.
            if (has_processor or not need.is_guess) and self._account.take(step.key, need.peak):
                return self._begin(step)
        return None

    def _begin(self, step: Step) -> Step:
        self._running.add(step.key)
        self._ready.remove(step.key)
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

    def _make_room_for(self, step: Step, *, alone: bool) -> tuple[Step | None, Chosen]:
        """Start a step in the place of results that are in its way. alone: nothing runs, so that
        it starts whether or not there is enough room.
        """
        peak = self._need(step).peak
        excess = self._account.excess(peak)
        candidates = self._candidates(step)
        if self._running:
            candidates = self._better_gone(candidates, step)
        chosen = choose(self._policy, candidates, excess)
        if sum(candidate.nbytes for candidate, _ in chosen) < excess and not alone:
            return None, []  # it would not be enough: what runs will give memory back
        for candidate, way in chosen:
            self._evict(candidate, way)
        if self._account.take(step.key, peak, anyway=alone):
            return self._begin(step), chosen
        return None, chosen

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
                seconds = self._seconds_again(key)
                if seconds is not None:
                    ways[ROLLBACK] = seconds
            yield Candidate(key, nbytes, ways, self._finished[key], self._next_use(key))

    def _better_gone(self, candidates: Iterable[Candidate], starting: Step) -> Iterator[Candidate]:
        """Those of which it is no loss if a step starts now instead of when there is room. What is
        read before that one's result could as well stay, and the step wait until one has ended:
        for half as long as a step takes, it being as good as any other.

        For a step that only runs ahead, what is read later goes if that costs no more than twice
        what runs now takes: it runs beside that, and others have the room after it.
        """
        use, wait = self._next_use(starting.key), self._need(starting).seconds / 2
        most = math.inf
        if not self._asked_for(starting):
            most = 2 * max(self._need(self._step(key)).seconds for key in self._running)
        for each in candidates:
            price = cost(self._policy, each)
            if price < wait or (each.next_use > use and price <= most):
                yield each

    def _sharers(self, key: str) -> set[str]:
        """The results in memory that may refer to bytes of another one."""
        in_memory = self._present - self._spilled
        return in_memory.intersection(self._plan.made_of(key, self._unfinished))

    def _may_run_again(self, key: str) -> bool:
        again = self._seconds(self._step(key)) is not None
        return again and self._rollbacks[key] < _MOST_ROLLBACKS

    def _seconds_again(self, key: str) -> float | None:
        """What it takes to run a step again, and all that it needs and that is not there."""
        seconds = [self._seconds(self._step(each)) for each in self._gone_with(key)]
        return None if None in seconds else sum(filter(None, seconds))

    def _roll_back(self, key: str) -> None:
        again = self._gone_with(key)
        self._present.discard(key)
        self._account.drop(key, self._sharers(key))
        self._rollbacks[key] += 1
        self._unfinished.update(again)
        self._rolled.update(again)
        self._look_at(again)
        self._look_at(self._step(key).consumers)

    def _gone_with(self, key: str) -> set[str]:
        """A step, and those whose results are needed to run it again, and are not there."""
        gone = {key}
        stack = [key]
        while stack:
            for source in self._step(stack.pop()).inputs:
                is_coming = source in self._unfinished or source in gone
                if source not in self._present and not is_coming:
                    gone.add(source)
                    stack.append(source)
        return gone
