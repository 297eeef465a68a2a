"""The cost model of one run: the memory and time of its steps."""

from zerrow_ray.dag.estimates import Estimates, Function, Need, unknown
from zerrow_ray.dag.forecast import forecast
from zerrow_ray.dag.measurement import Measurement
from zerrow_ray.dag.plan import Plan, Step
from zerrow_ray.dag.tasks import is_measurable, may_run_again


class CostModel:
    """What the steps of a run need, by its measurements and those of earlier runs.

    Attributes
    ----------
    measurements
        The last measurement of each step that has reported one.
    """

    def __init__(self, plan: Plan, estimates: Estimates) -> None:
        self.measurements: dict[str, Measurement] = {}
        self._plan = plan
        self._estimates = estimates

    def need(self, step: Step) -> Need:
        """Return what a step is expected to need, once its inputs are present."""
        given = self.input_bytes(step)
        learned = self._learned(step, given)
        if learned is not None:
            return learned
        return unknown(given, _declared(step), is_guess=is_measurable(step))

    def peak(self, step: Step) -> int:
        """Return the bytes that a step is expected to take while it runs."""
        return self.need(step).peak

    def forecast(self) -> int | None:
        """Return the expected peak of the whole plan; None if a function has never run."""
        return forecast(self._plan, self._learned)

    def seconds_again(self, step: Step) -> float | None:
        """Return how long a finished step takes to run again; None if it must not."""
        if not may_run_again(step):
            return None
        measurement = self.measurements.get(step.key)
        last = None if measurement is None else measurement.seconds
        return self._estimates.seconds(_function(step)) or last

    def learn(self, step: Step, measurement: Measurement) -> None:
        """Take in the measurement of a run."""
        given = self.input_bytes(step)
        # The worker's peak includes the inputs, which are charged to the steps they came from.
        peak = max(measurement.peak - given, measurement.allocated, measurement.new)
        needed = Need(measurement.new, peak, measurement.result)
        self._estimates.learn(_function(step), given, needed, measurement.seconds)
        self.measurements[step.key] = measurement

    def input_bytes(self, step: Step) -> int:
        """Return the bytes of a step's inputs."""
        return sum(map(self.result_bytes, step.inputs))

    def result_bytes(self, key: str) -> int:
        """Return the bytes of a finished step's result; 0 if it reports none."""
        measurement = self.measurements.get(key)
        return measurement.result if measurement is not None else 0

    def _learned(self, step: Step, given: int) -> Need | None:
        return self._estimates.need(_function(step), given, _declared(step))


def _declared(step: Step) -> int | None:
    return step.node.get_options().get("memory") if step.is_task else None


def _function(step: Step) -> Function:
    if step.body is None:
        return Function(step.name)
    name = f"{step.body.__module__}.{step.body.__qualname__}"
    return Function(name, "" if step.inputs else step.arguments)
