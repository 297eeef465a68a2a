"""Which step starts next: a state machine without clock or Ray, so that it can be tested whole.

Depth first where memory is short, side by side where it is not: of the steps that are ready, one
that comes after what just finished goes before one that opens a new branch. A step starts when its
peak fits beside all that is held. When nothing runs and nothing fits, the best one starts all the
same: a DAG always advances, and never exceeds the budget by more than one step.
"""

from collections.abc import Callable
from dataclasses import dataclass

from zerrow_ray.dag.budget import Account
from zerrow_ray.dag.estimates import Need
from zerrow_ray.dag.plan import Plan, Step


@dataclass
class _State:
    waiting_for: int
    consumers_left: int
    finished: bool = False


class Scheduler:
    """The run of one plan. `need` says what a step needs, once its inputs are there."""

    def __init__(self, plan: Plan, account: Account, need: Callable[[Step], Need]) -> None:
        self._plan = plan
        self._account = account
        self._need = need
        self._states = {
            key: _State(len(step.inputs), len(step.consumers)) for key, step in plan.steps.items()
        }
        self._ready = [step for step in plan.steps.values() if not step.inputs]
        self._running: set[str] = set()
        self._unfinished = len(plan.steps)

    @property
    def done(self) -> bool:
        """Whether all steps have finished."""
        return self._unfinished == 0

    def start(self) -> Step | None:
        """Return a step to start now, its memory taken from the account; None if it has to wait."""
        self._account.waits = False
        self._ready.sort(key=self._urgency)
        for step in self._ready:
            if self._account.take(step.key, self._need(step).peak):
                return self._begin(step)
        if self._ready and not self._running:
            step = self._ready[0]
            if self._account.take(step.key, self._need(step).peak, anyway=True):
                return self._begin(step)
        return None

    def finish(self, key: str, result_bytes: int) -> list[str]:
        """Note that a step has finished; returns the steps whose results nobody will ask for."""
        state = self._states[key]
        state.finished = True
        self._unfinished -= 1
        self._running.discard(key)
        self._account.keep(key, result_bytes)
        released = []
        for consumer in self._plan.steps[key].consumers:
            self._states[consumer].waiting_for -= 1
            if self._states[consumer].waiting_for == 0:
                self._ready.append(self._plan.steps[consumer])
        for source in self._plan.steps[key].inputs:
            self._states[source].consumers_left -= 1
            if self._states[source].consumers_left == 0 and source not in self._plan.results:
                released.append(source)
        if not self._plan.steps[key].consumers and key not in self._plan.results:
            released.append(key)
        for source in released:
            self._account.drop(source)
        return released

    def _begin(self, step: Step) -> Step:
        self._ready.remove(step)
        self._running.add(step.key)
        return step

    def _urgency(self, step: Step) -> tuple[int, int]:
        """Sorts first what lets go of most inputs, then what comes first depth first."""
        last = sum(
            self._states[key].consumers_left == 1 and key not in self._plan.results
            for key in step.inputs
        )
        return -last, step.order
