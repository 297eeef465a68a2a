"""The run of a plan: submits steps to Ray as the scheduler admits them.

Tasks are wrapped, so that they report what they needed. They keep their own options, and with these
Ray's retries. Actors and their calls are submitted as Ray's own executor does it.
"""

import contextlib
import logging
import sys
import time
from collections.abc import Iterator
from typing import Any

import ray
from ray.dag import DAGNode
from ray.exceptions import RayError, RayTaskError

from zerrow_ray import transfers
from zerrow_ray.dag import nodes, tasks
from zerrow_ray.dag.budget import Account, Budget
from zerrow_ray.dag.costs import CostModel
from zerrow_ray.dag.estimates import Estimates
from zerrow_ray.dag.eviction import ROLLBACK
from zerrow_ray.dag.explain import Explanation, Run
from zerrow_ray.dag.measurement import Measurement
from zerrow_ray.dag.plan import Plan, Step
from zerrow_ray.dag.scheduler import Scheduler
from zerrow_ray.dag.stores import shared_budget, shared_disk
from zerrow_ray.session import current_session
from zerrow_ray.settings import announced
from zerrow_store.arrow_data import ARROW_DATA
from zerrow_store.errors import ZerrowError
from zerrow_store.policy import Policy, load_policy
from zerrow_store.sandbox import SandboxOptions
from zerrow_store.sizes import parse_size

logger = logging.getLogger("zerrow_ray.dag")

_POLL_SECONDS = 0.2
"""While a step waits for memory that another DAG has."""

_estimates = Estimates()


class StepError(ZerrowError):
    """A step of a DAG failed. Its cause is the step's exception.

    Attributes
    ----------
    step
        The step's name.
    """

    def __init__(self, step: str, error: BaseException) -> None:
        super().__init__(f"step {step!r} failed: {error}")
        self.step = step


def execute(
    node: DAGNode,
    *args: Any,
    memory: int | str | None = None,
    progress: bool | None = None,
    explain: bool = False,
    eviction: str | None = None,
    sandbox: SandboxOptions | None = None,
    **kwargs: Any,
) -> Any:
    """Run the DAG that ends in `node`, and wait until all its steps have finished.

    Parameters
    ----------
    node
        The DAG's final node.
    args, kwargs
        Values for its InputNode.
    memory
        The bytes, or a text such as "8GiB", that the DAG's results and running steps may take. The
        default is what the stores of all nodes may hold before they evict, less what they hold
        already. All DAGs of this driver with the default share that, and each begins when there is
        room for it (see `zerrow_ray.dag.budget`). Drivers that run DAGs at once have equal parts.
    progress
        Whether to show a bar. By default, if the standard error is a terminal.
    explain
        Whether to return an `Explanation`, too.
    eviction
        What to do with a result that is in the way of the next step, which does not need it: "swap"
        leaves it to the store, which spills unread data to disk; "rollback" drops it, and runs its
        function again when a step needs it; "adaptive" does what takes less time. The default is
        the stores' policy (see `zerrow_ray.init`). Only tasks that Ray may retry (max_retries) are
        run again.
    sandbox
        To confine the function of every step (see `zerrow_ray.sandboxed`).

    Returns
    -------
    Any
        The result of `node.execute()`: an ObjectRef, or a list of them for a MultiOutputNode. With
        `explain`, a pair of that and the explanation.

    Raises
    ------
    StepError
        A step failed, after its retries. No step runs any more.
    TypeError
        `node` is no DAG node; or a step cannot be confined, as it is an actor or a generator.
    ValueError
        The eviction policy is unknown.
    KeyboardInterrupt
        All running steps were cancelled.
    """
    plan, policy = Plan(node), load_policy(eviction or announced().policy())
    if sandbox is not None:
        tasks.check_confinable(plan)
    budget = shared_budget if memory is None else Budget(lambda *_: _bytes(memory))
    with contextlib.closing(budget.open()) as account:
        with _bar(len(plan.steps), progress) as bar:
            run = _Execution(plan, account, policy, sandbox, bar, args, kwargs)
            run.until_done()
        value = run.value(plan.final)
    return (value, run.explanation()) if explain else value


class _Execution:
    def __init__(
        self,
        plan: Plan,
        account: Account,
        policy: Policy,
        sandbox: SandboxOptions | None,
        bar: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> None:
        self._plan = plan
        self._account = account
        self._bar = bar
        self._sandbox = sandbox
        self._args, self._kwargs = args, kwargs
        self._costs = CostModel(plan, _estimates)
        self._scheduler = Scheduler(
            plan,
            account,
            policy,
            max(1, int(ray.cluster_resources().get("CPU", 1))),
            need=self._costs.need,
            peak=self._costs.forecast,
            seconds=self._costs.seconds_again,
            disk=shared_disk,
        )
        self._values: dict[str, Any] = {}
        self._puts: dict[str, ray.ObjectRef] = {}
        self._running: dict[ray.ObjectRef, Step] = {}
        self._runs: dict[str, Run] = {}
        self._start = time.time()

    def until_done(self) -> None:
        """Run all steps; cancel those that run on any error."""
        try:
            while not self._scheduler.done:
                # Ray gives a task to the worker that was idle for the shortest time. The result of
                # its last task was often just read, so its free memory is warm: the step that needs
                # most memory comes first.
                for step in sorted(iter(self._next, None), key=self._costs.peak, reverse=True):
                    self._submit(step)
                for key in self._scheduler.read_ahead():
                    self._tell_store(key, spill=False)
                self._collect()
        except BaseException:
            self._cancel()
            raise

    def value(self, node: DAGNode) -> Any:
        """Return the value of a node: of a step its reference, of another node its evaluation."""
        key = node.get_stable_uuid()
        if key in self._values:
            return self._values[key]
        return nodes.evaluate(node, self.value, self._args, self._kwargs)

    def explanation(self) -> Explanation:
        """Return the report of the run."""
        return Explanation(self._plan, [self._runs[key] for key in self._plan.steps])

    def _argument(self, node: DAGNode) -> Any:
        """Return the value of a node as an argument. Put a table that the user gave once."""
        value, key = self.value(node), node.get_stable_uuid()
        if not isinstance(value, ARROW_DATA):
            return value
        if key not in self._puts:
            self._puts[key] = ray.put(value)
        return self._puts[key]

    def _next(self) -> Step | None:
        step, evicted = self._scheduler.start()
        for candidate, way in evicted:
            run = self._runs[str(candidate.key)]
            if way == ROLLBACK:
                del self._values[run.key]
                run.rollbacks += 1
                run.expected_again = candidate.ways[way]
            else:
                run.left_to_disk = True
                self._tell_store(run.key, spill=True)
        return step

    def _tell_store(self, key: str, *, spill: bool) -> None:
        """Have the store write a result to disk, or read it back, before a step waits for that."""
        measurement = self._costs.measurements.get(key)
        if measurement is not None and measurement.objects:
            transfers.ahead(measurement.node_id, measurement.objects, spill=spill)

    def _submit(self, step: Step) -> None:
        need = self._costs.need(step)
        again = self._runs.get(step.key)
        self._runs[step.key] = Run(
            step.key, step.name, time.time() - self._start, self._costs.input_bytes(step), need
        )
        if again is not None:
            self._runs[step.key].follow(again)
        self._values[step.key], end = tasks.submit(step, self._argument, self._sandbox)
        if end is not None:
            self._running[end] = step
        else:
            self._finish(step, None)

    def _collect(self) -> None:
        """Wait until a step ends, for a while at most."""
        if not self._running:
            self._account.wait(_POLL_SECONDS)
            return
        # Measurements are small, and come with the results: nothing large is fetched.
        ready, _ = ray.wait(list(self._running), timeout=_POLL_SECONDS, fetch_local=False)
        for ref in ready:
            step = self._running.pop(ref)
            try:
                # Fetch other results, too: that is how Ray reports failures.
                value = ray.get(ref)
                measurement = value if isinstance(value, Measurement) else None
                del value
            except RayError as error:
                if self._retry(step):
                    logger.warning("step %s runs again, an input was lost: %s", step.name, error)
                    continue
                cause = error.cause if isinstance(error, RayTaskError) else error
                raise StepError(step.name, cause) from error
            self._finish(step, measurement)

    def _finish(self, step: Step, measurement: Measurement | None) -> None:
        run = self._runs[step.key]
        run.finish(time.time() - self._start, measurement)
        new = 0
        if measurement is not None:
            new = measurement.new
            self._costs.learn(step, measurement)
            if run.expected_again is not None:
                current_session().client.record_rollback(
                    step.name, new, run.expected_again, measurement.seconds
                )
        for key in self._scheduler.finish(step.key, new, self._costs.result_bytes(step.key)):
            del self._values[key]
            self._runs[key].released = time.time() - self._start
        if run.rollbacks == 0:
            self._bar.update()

    def _retry(self, step: Step) -> bool:
        """Run a failed step again, after the steps whose results it could not read."""
        values = self._values  # without those that are lost to another step
        lost = [k for k in step.inputs if k not in values or not tasks.is_readable(values[k])]
        if not lost or not step.is_task or not self._scheduler.retry(step.key, lost):
            return False
        for key in lost:
            values.pop(key, None)
            self._runs[key].rollbacks += 1
        return True

    def _cancel(self) -> None:
        """Cancel all running steps, and wait for their end."""
        for ref, step in self._running.items():
            with contextlib.suppress(RayError, TypeError, ValueError):
                ray.cancel(ref, force=False, recursive=True)
            logger.debug("cancelled step %s", step.name)
        if self._running:
            running = list(self._running)
            ray.wait(running, num_returns=len(running), timeout=10, fetch_local=False)
        self._values.clear()


@contextlib.contextmanager
def _bar(steps: int, wanted: bool | None) -> Iterator[Any]:
    from tqdm import tqdm

    shown = sys.stderr.isatty() if wanted is None else wanted
    with tqdm(total=steps, unit="step", disable=not shown) as bar:
        yield bar


def _bytes(size: int | str) -> int:
    return size if isinstance(size, int) else parse_size(size)
