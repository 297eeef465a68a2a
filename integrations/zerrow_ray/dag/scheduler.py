"""The choice of the step that starts next: a state machine without clock or Ray.

The first step starts when the budget lets the DAG begin (see `zerrow_ray.dag.budget`). Steps run
depth first if memory is short, side by side if it is not: of the ready steps, one that releases its
inputs goes before one that opens a new branch. A step starts when its peak fits beside all memory
in use. If none fits and a processor is free, results that no running step reads are evicted (see
`zerrow_ray.dag.eviction`). Of functions that have never run, no more steps start than there are
processors. When nothing runs and nothing can be evicted, the best step starts anyway: a DAG that
has begun always advances, and exceeds the budget by at most one step.

A rolled-back result is made again when its consumer lacks nothing else. It is made ahead of that if
the consumer is one of the next steps and no other step wants the processor: to run two steps side
by side is worth more than most results that are kept for later, which are evicted for it. A lost
result, for example one whose file on disk is damaged, is made again in the same way.
"""

from collections.abc import Callable, Iterable

from zerrow_ray.dag.budget import Account
from zerrow_ray.dag.disk import Disk
from zerrow_ray.dag.estimates import Need
from zerrow_ray.dag.eviction import Chosen, Eviction
from zerrow_ray.dag.plan import Plan, Step
from zerrow_ray.dag.progress import Progress
from zerrow_store.policy import Policy


class Scheduler:
    """The schedule of one run.

    Parameters
    ----------
    plan, account
        The steps, and the memory they may use.
    policy
        Chooses results to evict.
    slots
        How many steps of all DAGs can run at a time. The scheduler evicts for no more than these.
    need
        Returns what a step needs, once its inputs are present.
    peak
        Returns the expected peak of the whole plan in bytes; None if it is unknown.
    seconds
        Returns how long a finished step takes to run again; None if it must not.
    disk
        Has the cost of spilling.
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
        self._slots = slots
        self._need = need
        self._peak = peak
        self._progress = Progress(plan)
        self._eviction = Eviction(
            self._progress, account, policy, need=need, seconds=seconds, disk=disk
        )
        self._read_ahead: set[str] = set()

    @property
    def done(self) -> bool:
        """Whether all steps have finished."""
        return not self._progress.unfinished

    def start(self) -> tuple[Step | None, Chosen]:
        """Choose the step to start now, and take its memory from the account.

        Returns
        -------
        tuple
            The step, or None if all have to wait; and the results evicted for it. The caller drops
            the values of those that were rolled back.
        """
        self._account.waits = False
        if not self._account.begin(self._peak, self._slots):
            return None, []
        ready = sorted(map(self._progress.step, self._progress.ready), key=self._urgency)
        wanted = list(filter(self._progress.is_wanted, ready))
        if step := self._first_that_fits(wanted):
            return step, []
        running = self._account.steps_at_once()
        if not ready or running >= self._slots:
            return None, []
        if not wanted:
            soon = [s for s in ready if self._progress.next_use(s.key) <= self._slots]
            if step := self._first_that_fits(soon):
                return step, []
            self._account.waits = False
            if running > 0 and not soon:
                return None, []
            ready = soon or ready
        return self._make_room_for((wanted or ready)[0], alone=running == 0)

    def finish(self, key: str, new: int, size: int) -> list[str]:
        """Note that a step has finished.

        Parameters
        ----------
        key
            The step.
        new, size
            The new bytes of its result, and the size of the result.

        Returns
        -------
        list of str
            The steps whose results no step will read any more. The caller drops their values.
        """
        self._progress.finish(key)
        self._account.keep(key, new, size)
        released = [
            each
            for each in (key, *self._plan.steps[key].inputs)
            if each in self._progress.present
            and not self._plan.is_needed(each, self._progress.unfinished)
        ]
        for each in released:
            self._progress.release(each)
            self._account.drop(each, self._progress.sharers(each))
        return released

    def read_ahead(self) -> list[str]:
        """Return the spilled results to read back now, each once: the next step reads them."""
        running = self._progress.running
        soon = self._progress.next_steps(len(running) + 1)
        inputs = {key for step in soon if step.key not in running for key in step.inputs}
        ahead = (inputs & self._progress.spilled) - self._read_ahead
        self._read_ahead |= ahead
        return list(ahead)

    def retry(self, key: str, lost: list[str]) -> bool:
        """Note that a step has failed because its inputs `lost` cannot be read.

        These are made again, then the step runs again. Return False, and change nothing, if one of
        them must not run again, or has too often.
        """
        if not all(map(self._eviction.may_run_again, lost)):
            return False
        self._account.fail(key)
        for each in lost:
            # Steps that share an input fail one after the other.
            if each in self._progress.present:
                self._eviction.roll_back(each)
        self._progress.fail(key)
        return True

    def _first_that_fits(self, steps: Iterable[Step]) -> Step | None:
        has_processor = self._account.steps_at_once() < self._slots
        for step in steps:
            need = self._need(step)
            # More is known of a function once one of its steps has finished.
            if (has_processor or not need.is_guess) and self._account.take(step.key, need.peak):
                return self._begin(step)
        return None

    def _begin(self, step: Step) -> Step:
        self._progress.start(step.key)
        return step

    def _urgency(self, step: Step) -> tuple[int, int]:
        """Sort by the number of inputs that the step releases, then depth first."""
        released = sum(
            key not in self._plan.results and self._progress.unfinished_consumers(key) == {step.key}
            for key in step.inputs
        )
        return -released, step.order

    def _make_room_for(self, step: Step, *, alone: bool) -> tuple[Step | None, Chosen]:
        """Start a step after evictions. alone: nothing runs, so it starts even if they free too
        little.
        """
        peak = self._need(step).peak
        excess = self._account.excess(peak)
        chosen = self._eviction.choose(step, excess)
        if sum(candidate.nbytes for candidate, _ in chosen) < excess and not alone:
            return None, []  # too little: wait for running steps to release memory
        for candidate, way in chosen:
            self._eviction.evict(candidate, way)
        if self._account.take(step.key, peak, anyway=alone):
            return self._begin(step), chosen
        return None, chosen
