"""Running a plan: submits steps to Ray as the scheduler admits them.

Tasks are submitted wrapped, so that they report what they needed; their options, and with them
Ray's retries, are their own. Actors and their calls go as Ray's own executor sends them.
"""

import contextlib
import functools
import inspect
import logging
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import ray
from ray.dag import DAGNode
from ray.exceptions import RayError, RayTaskError

from zerrow_ray import transfers
from zerrow_ray.dag import nodes
from zerrow_ray.dag.budget import Account, Budget
from zerrow_ray.dag.disk import Disk, Speed
from zerrow_ray.dag.estimates import Estimates, Function, Need, unknown
from zerrow_ray.dag.explain import Explanation, Run
from zerrow_ray.dag.forecast import forecast
from zerrow_ray.dag.measured import ARROW_DATA, Measured, measured
from zerrow_ray.dag.plan import Plan, Step
from zerrow_ray.dag.policy import ROLLBACK
from zerrow_ray.dag.scheduler import Scheduler
from zerrow_ray.jobs import announce_dags, jobs_that_run_dags
from zerrow_ray.sandbox import confined
from zerrow_ray.session import current_session
from zerrow_ray.settings import announced
from zerrow_ray.store_stats import stats
from zerrow_store.budget import HIGH_WATERMARK
from zerrow_store.errors import ZerrowError
from zerrow_store.policy import Policy, load_policy
from zerrow_store.sandbox import SandboxOptions
from zerrow_store.sizes import parse_size

logger = logging.getLogger("zerrow_ray.dag")

_POLL_SECONDS = 0.2
"""While a step waits for memory that another DAG holds."""


class StepError(ZerrowError):
    """A step of a DAG failed. `step` is its name; the cause is what it raised."""

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
    """Run the DAG that ends in `node`, with `args` and `kwargs` for its InputNode.

    Returns, when all steps have finished, what `node.execute()` would: an ObjectRef, or a list of
    them for a MultiOutputNode. With `explain`, a pair of that and an `Explanation`.

    memory: bytes, or a text such as "8GiB", that the DAG's results and running steps may hold. By
        default what the stores of all nodes may before they evict, less what they hold already; all
        DAGs of this driver that run by default share that, and begin when there is room for them
        (see `zerrow_ray.dag.budget`). Drivers that run DAGs at once have equal parts.
    eviction: what happens to results that are in the way of the next step and not needed for it,
        by default as the stores do it (see `zerrow_ray.init`): "swap" leaves them to the store,
        which spills to disk what nobody reads; "rollback" drops them, and runs their functions
        again when they are asked for; "adaptive" does whichever takes less time. Only tasks that
        Ray may retry are run again (max_retries).
    sandbox: run every step's function confined (see `zerrow_ray.sandboxed`). Actors and generators
        cannot be.
    progress: show a bar; by default if the standard error is a terminal.

    Raises StepError for a step that failed, after its retries, once no other step runs any more;
    TypeError if `node` is not a DAG node, or has steps that cannot be confined as asked;
    ValueError for an unknown policy. Control-C cancels all that runs.
    """
    plan, policy = Plan(node), load_policy(eviction or announced().policy())
    if sandbox is not None:
        _check_confinable(plan)
    budget = _shared if memory is None else Budget(lambda *_: _bytes(memory))
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
        self._scheduler = Scheduler(
            plan,
            account,
            policy,
            max(1, int(ray.cluster_resources().get("CPU", 1))),
            need=self._need,
            peak=lambda: forecast(plan, _learned),
            seconds=self._seconds_again,
            disk=_disk,
        )
        self._values: dict[str, Any] = {}
        self._puts: dict[str, ray.ObjectRef] = {}
        self._reports: dict[str, Measured] = {}
        self._running: dict[ray.ObjectRef, Step] = {}
        self._runs: dict[str, Run] = {}
        self._start = time.time()

    def until_done(self) -> None:
        try:
            while not self._scheduler.done:
                # Ray gives a task to the worker that was idle for the shortest time. Often its
                # result was just read, and its memory is free and warm, for who needs most of it.
                for step in sorted(iter(self._next, None), key=self._peak, reverse=True):
                    self._submit(step)
                for key in self._scheduler.read_ahead():
                    self._tell_store(key, spill=False)
                self._collect()
        except BaseException:
            self._cancel()
            raise

    def value(self, node: DAGNode) -> Any:
        """Return the value of a node: of a step its reference, of another node what it makes."""
        key = node.get_stable_uuid()
        if key in self._values:
            return self._values[key]
        return nodes.evaluate(node, self.value, self._args, self._kwargs)

    def explanation(self) -> Explanation:
        return Explanation(self._plan, [self._runs[key] for key in self._plan.steps])

    def _argument(self, node: DAGNode) -> Any:
        """Return the value of a node as a step takes it: a table that was given is put once."""
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
        """Have the store write a result to disk, or read it from there, while steps run: before
        they want its memory, or it.
        """
        report = self._reports.get(key)
        if report is not None and report.objects:
            transfers.ahead(report.node_id, report.objects, spill=spill)

    def _submit(self, step: Step) -> None:
        need = self._need(step)
        again = self._runs.get(step.key)
        self._runs[step.key] = Run(
            step.key, step.name, time.time() - self._start, self._input_bytes(step), need
        )
        if again is not None:
            self._runs[step.key].follow(again)
        if _is_measurable(step):
            returns = _returns(step)
            options = {"name": step.name, **step.node.get_options(), "num_returns": returns + 1}
            args, kwargs, _ = nodes.arguments(step.node, self._argument)
            task = _measured_task(step.body, returns, self._sandbox).options(**options)
            refs = task.remote(*args, **kwargs)
            *values, ends = refs if returns else [refs]
            value = _as_ray_gives(values)
        else:
            value = nodes.run(step.node, self._argument)
            # A call with several results ends when its first one is there, with the others.
            ends = value[0] if isinstance(value, list) else value
        self._values[step.key] = value
        if isinstance(ends, ray.ObjectRef):
            self._running[ends] = step
        else:  # an actor is there as soon as it is asked for, a generator yields while others run
            self._finish(step, None)

    def _collect(self) -> None:
        if not self._running:
            self._account.wait(_POLL_SECONDS)
            return
        # The reports are small, and come with the results: nothing large is fetched.
        ready, _ = ray.wait(list(self._running), timeout=_POLL_SECONDS, fetch_local=False)
        for ref in ready:
            step = self._running.pop(ref)
            report = None
            try:
                # Also what is no report is fetched: Ray tells of a failure in no other way.
                value = ray.get(ref)
                report = value if isinstance(value, Measured) else None
                del value
            except RayError as error:
                if self._retry(step):
                    logger.warning(
                        "step %s runs again, what it reads was lost: %s", step.name, error
                    )
                    continue
                cause = error.cause if isinstance(error, RayTaskError) else error
                raise StepError(step.name, cause) from error
            self._finish(step, report)

    def _finish(self, step: Step, report: Measured | None) -> None:
        run = self._runs[step.key]
        run.finish(time.time() - self._start, report)
        new = report.new if report is not None else 0
        if report is not None:
            given = self._input_bytes(step)
            # The worker's peak has the inputs in it, which are counted where they came from.
            peak = max(report.peak - given, report.allocated, report.new)
            needed = Need(report.new, peak, report.result)
            _estimates.learn(_function(step), given, needed, report.seconds)
            self._reports[step.key] = report
            if run.expected_again is not None:
                current_session().client.record_rollback(
                    step.name, report.new, run.expected_again, report.seconds
                )
        for key in self._scheduler.finish(step.key, new, self._result_bytes(step.key)):
            del self._values[key]
            self._runs[key].released = time.time() - self._start
        if run.rollbacks == 0:
            self._bar.update()

    def _retry(self, step: Step) -> bool:
        """Run a step again that has failed, and before it those whose results it could not read."""
        values = self._values  # without those that are lost to another step, too
        lost = [k for k in step.inputs if k not in values or not _is_readable(values[k])]
        if not lost or not step.is_task or not self._scheduler.retry(step.key, lost):
            return False
        for key in lost:
            values.pop(key, None)
            self._runs[key].rollbacks += 1
        return True

    def _need(self, step: Step) -> Need:
        given = self._input_bytes(step)
        learned = _learned(step, given)
        if learned is not None:
            return learned
        return unknown(given, _declared(step), is_guess=_is_measurable(step))

    def _peak(self, step: Step) -> int:
        return self._need(step).peak

    def _seconds_again(self, step: Step) -> float | None:
        retriable = step.is_task and step.node.get_options().get("max_retries") != 0
        if not retriable:
            return None
        return _estimates.seconds(_function(step)) or self._runs[step.key].seconds

    def _input_bytes(self, step: Step) -> int:
        return sum(map(self._result_bytes, step.inputs))

    def _result_bytes(self, key: str) -> int:
        report = self._reports.get(key)
        return report.result if report is not None else 0

    def _cancel(self) -> None:
        """Leave nothing running."""
        for ref, step in self._running.items():
            with contextlib.suppress(RayError, TypeError, ValueError):
                ray.cancel(ref, force=False, recursive=True)
            logger.debug("cancelled step %s", step.name)
        if self._running:
            ray.wait(list(self._running), num_returns=len(self._running), timeout=10)
        self._values.clear()


def _learned(step: Step, given: int) -> Need | None:
    return _estimates.need(_function(step), given, _declared(step))


def _declared(step: Step) -> int | None:
    return step.node.get_options().get("memory") if step.is_task else None


def _function(step: Step) -> Function:
    if step.body is None:
        return Function(step.name)
    name = f"{step.body.__module__}.{step.body.__qualname__}"
    return Function(name, "" if step.inputs else step.arguments)


def _returns(step: Step) -> Any:
    """How many results a task has; no number for a generator."""
    return step.node.get_options().get("num_returns", 1)


def _as_ray_gives(refs: list[ray.ObjectRef]) -> Any:
    """What `remote()` returns of a task with these results."""
    if len(refs) > 1:
        return refs
    return refs[0] if refs else None


def _is_measurable(step: Step) -> bool:
    generator = inspect.isgeneratorfunction(step.body)
    return step.is_task and isinstance(_returns(step), int) and not generator


@functools.lru_cache(maxsize=1024)
def _measured_task(
    function: Callable[..., Any], returns: int, sandbox: SandboxOptions | None
) -> Any:
    """The wrapped function as a task, one for all steps of it: Ray exports each task once."""
    if sandbox is not None:
        function = confined(function, None, sandbox)
    return ray.remote(measured(function, returns))


def _check_confinable(plan: Plan) -> None:
    for step in plan.steps.values():
        if not _is_measurable(step):
            raise TypeError(f"step {step.name!r} is no plain function: it cannot be confined")


def _is_readable(value: Any) -> bool:
    """Whether a step's value can be read by a step."""
    values = value if isinstance(value, list) else [value]
    try:
        ray.get([_read.remote(ref) for ref in values if isinstance(ref, ray.ObjectRef)])
    except RayError:
        return False
    return True


@ray.remote(num_cpus=0, max_retries=0)  # type: ignore[untyped-decorator]
def _read(value: Any) -> None:
    """Take a value as a step does."""


@contextlib.contextmanager
def _bar(steps: int, wanted: bool | None) -> Iterator[Any]:
    from tqdm import tqdm

    shown = sys.stderr.isatty() if wanted is None else wanted
    with tqdm(total=steps, unit="step", disable=not shown) as bar:
        yield bar


def _available(drivers: int, held: int) -> int:
    """Bytes that a driver's DAGs may hold in all nodes' stores: alone, all that others do not."""
    nodes = stats()["nodes"].values()
    # Above that, the stores spill as they see fit what a DAG has just decided to keep.
    budget = int(HIGH_WATERMARK * sum(node["budget"] for node in nodes))
    if drivers > 1:
        return budget // drivers
    stored: int = sum(node["bytes_stored"] for node in nodes)
    return budget - stored + held


def _disk_speed() -> Speed:
    """The slowest disks, as the stores have measured them."""
    nodes = stats()["nodes"].values()
    names = ("spill_bandwidth", "spill_processor_bandwidth", "read_back_bandwidth")
    return Speed(*(max(1 / node[name] for node in nodes) for name in names))


def _bytes(size: int | str) -> int:
    return size if isinstance(size, int) else parse_size(size)


_shared = Budget(_available, drivers=jobs_that_run_dags, announce=announce_dags)
_disk = Disk(_disk_speed)
_estimates = Estimates()
