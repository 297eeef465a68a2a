"""A forecast of the memory that a whole DAG takes at most, if its steps run one after the other."""

from collections.abc import Callable

from zerrow_ray.dag.charges import Charges
from zerrow_ray.dag.estimates import Need
from zerrow_ray.dag.plan import Plan, Step


def forecast(plan: Plan, need: Callable[[Step, int], Need | None]) -> int | None:
    """Return the expected peak in bytes; None if the need of a step is unknown.

    Parameters
    ----------
    plan
        The DAG's steps.
    need
        Returns what a step is expected to need, given the bytes of its inputs.
    """
    charges = Charges()
    sizes: dict[str, int] = {}
    unfinished = set(plan.steps)
    present: set[str] = set()
    most = 0
    for step in plan.steps.values():  # depth first
        expected = need(step, sum(sizes[key] for key in step.inputs))
        if expected is None:
            return None
        most = max(most, charges.total + expected.peak)
        charges.charge(step.key, expected.new, expected.result)
        sizes[step.key] = expected.result
        unfinished.remove(step.key)
        present.add(step.key)
        for key in (step.key, *step.inputs):
            if not plan.is_needed(key, unfinished):
                present.remove(key)
                charges.release(key, present.intersection(plan.made_of(key, unfinished)))
    return most
