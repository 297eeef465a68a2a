"""The Ray tasks that a DAG's steps run as."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import ray
from ray.exceptions import RayError

from zerrow_ray.dag import nodes
from zerrow_ray.dag.measurement import measured
from zerrow_ray.dag.plan import Plan, Step
from zerrow_ray.sandbox import confined
from zerrow_store.sandbox import SandboxOptions


def is_measurable(step: Step) -> bool:
    """Return whether a step can run wrapped, and report what it needed."""
    is_generator = inspect.isgeneratorfunction(step.body)
    return step.is_task and isinstance(_results(step), int) and not is_generator


def check_confinable(plan: Plan) -> None:
    """Check that all steps can run in sandboxes.

    Raises
    ------
    TypeError
        A step is an actor, a call of one, or a generator.
    """
    for step in plan.steps.values():
        if not is_measurable(step):
            raise TypeError(f"step {step.name!r} is not a plain function: it cannot be confined")


def submit(
    step: Step, argument: nodes.Value, sandbox: SandboxOptions | None
) -> tuple[Any, ray.ObjectRef | None]:
    """Submit a step to Ray.

    Parameters
    ----------
    step
        A step whose inputs are present.
    argument
        Returns the value of an argument's node.
    sandbox
        To confine the step.

    Returns
    -------
    tuple
        The step's value, as Ray's `remote()` returns it, and the reference that is ready when the
        step ends: its measurement, or a result of a step that reports none. None for an actor,
        which is ready as soon as it is called, and a generator, which yields while other steps run.
    """
    if not is_measurable(step):
        value = nodes.run(step.node, argument)
        # All results of a call become ready together.
        end = value[0] if isinstance(value, list) else value
        return value, end if isinstance(end, ray.ObjectRef) else None
    results = _results(step)
    options = {"name": step.name, **step.node.get_options(), "num_returns": results + 1}
    args, kwargs, _ = nodes.arguments(step.node, argument)
    task = _measured_task(step.body, results, sandbox).options(**options)
    refs = task.remote(*args, **kwargs)
    *values, end = refs if results else [refs]
    if len(values) > 1:
        return values, end
    return values[0] if values else None, end


def may_run_again(step: Step) -> bool:
    """Return whether Ray may run a step's function again."""
    return step.is_task and step.node.get_options().get("max_retries") != 0


def is_readable(value: Any) -> bool:
    """Return whether a step could read another step's value."""
    values = value if isinstance(value, list) else [value]
    try:
        ray.get([_read.remote(ref) for ref in values if isinstance(ref, ray.ObjectRef)])
    except RayError:
        return False
    return True


def _results(step: Step) -> Any:
    """Return the number of a task's results; a string for a generator."""
    return step.node.get_options().get("num_returns", 1)


@functools.lru_cache(maxsize=1024)
def _measured_task(
    function: Callable[..., Any], results: int, sandbox: SandboxOptions | None
) -> Any:
    """Return the wrapped function as a task. All steps share it: Ray exports each task once."""
    if sandbox is not None:
        function = confined(function, None, sandbox)
    return ray.remote(measured(function, results))


@ray.remote(num_cpus=0, max_retries=0)  # type: ignore[untyped-decorator]
def _read(value: Any) -> None:
    """Read a value as a step does."""
