"""The state of each step while a plan runs.

A step is *ready* when its inputs are present, then *running*, then finished, its result *present*.
A result that was rolled back is no longer present, and its step unfinished again.
"""

import bisect
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator

from zerrow_ray.dag.plan import Plan, Step


class Progress:
    """Sets of the keys of a plan's steps.

    Attributes
    ----------
    unfinished, ready, running
        Steps.
    present
        Steps whose results exist, in memory or spilled.
    rolled_back
        Unfinished steps that have run before.
    spilled
        Present results that were left to the stores to spill.
    rollbacks
        How often each step was rolled back.
    finished
        For each step that has run: the number of steps that finished before it.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.unfinished = set(plan.steps)
        self.ready: set[str] = set()
        self.running: set[str] = set()
        self.present: set[str] = set()
        self.rolled_back: set[str] = set()
        self.spilled: set[str] = set()
        self.rollbacks: Counter[str] = Counter()
        self.finished: dict[str, int] = {}
        self._finishes = itertools.count()
        self._in_order = list(plan.steps.values())
        # Places in that order of the steps that have never run, sorted.
        self._to_run = list(range(len(self._in_order)))
        self._update_ready(plan.steps)

    def step(self, key: str) -> Step:
        """Return the step with this key."""
        return self.plan.steps[key]

    def start(self, key: str) -> None:
        """Note that a ready step runs."""
        self.running.add(key)
        self.ready.remove(key)

    def finish(self, key: str) -> None:
        """Note that a running step has finished."""
        self.running.discard(key)
        self.unfinished.discard(key)
        if key in self.rolled_back:
            self.rolled_back.remove(key)
        else:
            del self._to_run[bisect.bisect_left(self._to_run, self.step(key).order)]
        self.present.add(key)
        self._update_ready(self.step(key).consumers)
        self.finished[key] = next(self._finishes)

    def fail(self, key: str) -> None:
        """Note that a running step has failed, and is to run again."""
        self.running.discard(key)
        self._update_ready([key])

    def release(self, key: str) -> None:
        """Note that a result is gone for good."""
        self.present.discard(key)
        self.spilled.discard(key)

    def roll_back(self, key: str) -> None:
        """Note that a result is gone, and its step unfinished again."""
        again = self.steps_to_repeat(key)
        self.release(key)
        self.rollbacks[key] += 1
        self.unfinished.update(again)
        self.rolled_back.update(again)
        self._update_ready([*again, *self.step(key).consumers])

    def steps_to_repeat(self, key: str) -> set[str]:
        """Return a step, and the steps to run again before it, as their results are gone."""
        repeated = {key}
        stack = [key]
        while stack:
            for source in self.step(stack.pop()).inputs:
                will_run = source in self.unfinished or source in repeated
                if source not in self.present and not will_run:
                    repeated.add(source)
                    stack.append(source)
        return repeated

    def unfinished_consumers(self, key: str) -> set[str]:
        """Return the unfinished steps that take a result."""
        return self.unfinished.intersection(self.step(key).consumers)

    def is_wanted(self, step: Step) -> bool:
        """Return whether a ready step is to run now.

        A step that was rolled back is, if a consumer lacks nothing but results of such steps.
        """
        if step.key not in self.rolled_back:
            return True
        available = self.present | self.rolled_back
        return any(self._readers(step.key, lambda each: available.issuperset(each.inputs)))

    def next_use(self, key: str) -> int:
        """Return after how many steps, run one after the other, a result has been read."""
        orders = (reader.order for reader in self._readers(key))
        first = min(orders, default=len(self.plan.steps))
        return 1 + bisect.bisect_left(self._to_run, first)

    def next_steps(self, count: int) -> list[Step]:
        """Return the first steps, in the plan's order, that have never finished."""
        return [self._in_order[order] for order in self._to_run[:count]]

    def sharers(self, key: str) -> set[str]:
        """Return the results in memory that may refer to bytes of another one."""
        in_memory = self.present - self.spilled
        return in_memory.intersection(self.plan.made_of(key, self.unfinished))

    def _readers(
        self, key: str, may_run: Callable[[Step], bool] = lambda _: True
    ) -> Iterator[Step]:
        """Iterate over the steps that will read a result, or a rolled-back result made of it."""
        seen: set[str] = set()
        stack = [key]
        while stack:
            for each in self.unfinished_consumers(stack.pop()) - seen:
                seen.add(each)
                if not may_run(self.step(each)):
                    continue
                if each in self.rolled_back:
                    stack.append(each)
                else:
                    yield self.step(each)

    def _update_ready(self, keys: Iterable[str]) -> None:
        for key in keys:
            waits = key in self.unfinished and key not in self.running
            if waits and self.present.issuperset(self.step(key).inputs):
                self.ready.add(key)
            else:
                self.ready.discard(key)
