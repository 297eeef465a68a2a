"""What a whole DAG is expected to hold at most, if its steps run one after the other."""

from collections.abc import Callable

from zerrow_ray.dag.estimates import Need
from zerrow_ray.dag.holdings import Holdings
from zerrow_ray.dag.plan import Plan, Step


def forecast(plan: Plan, need: Callable[[Step, int], Need | None]) -> int | None:
    """Return bytes, or None if nothing is known of one of the steps.

    need: what a step is expected to need, given the bytes of its inputs.
    """
    holdings = Holdings()
    sizes: dict[str, int] = {}
    unfinished = set(plan.steps)
    present: set[str] = set()
    most = 0
    for step in plan.steps.values():  # depth first
        expected = need(step, sum(sizes[key] for key in step.inputs))
        if expected is None:
            return None
        most = max(most, holdings.total + expected.peak)
        holdings.put(step.key, expected.new, expected.result)
        sizes[step.key] = expected.result
        unfinished.remove(step.key)
        present.add(step.key)
        for key in (step.key, *step.inputs):
            if not plan.is_needed(key, unfinished):
                present.remove(key)
                holdings.let_go(key, present.intersection(plan.made_of(key, unfinished)))
    return most
