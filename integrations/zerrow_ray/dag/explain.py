"""The report of a DAG's run, as a table and as a drawing."""

import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from zerrow_ray.dag.estimates import Need
from zerrow_ray.dag.measurement import Measurement
from zerrow_ray.dag.plan import Plan
from zerrow_store.cli.output import text_of
from zerrow_store.sizes import format_size


@dataclass
class Run:
    """The last run of a step. Times are in seconds after the DAG's start, sizes in bytes.

    Attributes
    ----------
    key, name
        The step.
    submitted, finished, released
        When the step was submitted and finished, and when its result was released.
    input_bytes, expected
        The size of its inputs, and the need that it was admitted with.
    seconds, result_bytes, new_bytes, peak_bytes, worker
        The measurement (see `zerrow_ray.dag.measurement`), the worker's pid included. None for
        actors, their calls and generators, which report none.
    rollbacks
        How often its result was rolled back.
    expected_again
        The seconds that the repetition, with all steps that it needs, was expected to take.
    left_to_disk
        Whether its result was left to the store to spill.
    """

    key: str
    name: str
    submitted: float
    input_bytes: int
    expected: Need
    finished: float | None = None
    seconds: float | None = None
    result_bytes: int | None = None
    new_bytes: int | None = None
    peak_bytes: int | None = None
    worker: int | None = None
    released: float | None = None
    rollbacks: int = 0
    expected_again: float | None = None
    left_to_disk: bool = False

    def follow(self, previous: "Run") -> None:
        """Take over from the run that this one repeats."""
        self.rollbacks, self.expected_again = previous.rollbacks, previous.expected_again

    def finish(self, when: float, measurement: Measurement | None) -> None:
        """Take in the measurement of the finished run."""
        self.finished = when
        if measurement is not None:
            self.seconds = measurement.seconds
            self.result_bytes, self.new_bytes = measurement.result, measurement.new
            self.peak_bytes, self.worker = measurement.peak, measurement.pid


_COLUMNS = (
    "step",
    "start",
    "end",
    "released",
    "seconds",
    "input",
    "result",
    "new",
    "peak",
    "expected",
    "rollbacks",
    "spilled",
)


class Explanation:
    """The report of a run of `execute`.

    str() is a table. Times are in seconds after the DAG's start; `seconds` are the function's own.
    `result` is the size of what a step returned, `new` the part of it that was in no segment
    before, `peak` by how much its worker grew, `expected` what it was admitted with. `rollbacks` is
    how often its result was dropped, to be made again; `spilled` says whether it was left to the
    store.

    Attributes
    ----------
    runs
        The steps in the order of the plan, which is depth first.
    """

    def __init__(self, plan: Plan, runs: list[Run]) -> None:
        self._inputs = {step.key: step.inputs for step in plan.steps.values()}
        self.runs = runs

    def rows(self) -> list[dict[str, Any]]:
        """Return a record for each step, with plain numbers."""
        return [asdict(run) for run in self.runs]

    def __str__(self) -> str:
        from rich.table import Table
        from rich.text import Text

        made = Table(box=None, pad_edge=False)
        for name in _COLUMNS:
            made.add_column(name, justify="right" if made.columns else "left", no_wrap=True)
        for run in self.runs:
            made.add_row(*map(Text, _cells(run)))
        return text_of(made)

    def dot(self) -> str:
        """Return the drawing in Graphviz's language."""
        lines = ["digraph dag {", "  rankdir=LR;", '  node [shape=box, fontname="sans-serif"];']
        for run in self.runs:
            took = "" if run.seconds is None else f"\\n{run.seconds:.3f} s"
            size = "" if run.new_bytes is None else f", {format_size(run.new_bytes)} new"
            lines.append(f"  {_quoted(run.key)} [label={_quoted(run.name + took + size)}];")
        for run in self.runs:
            for source in self._inputs[run.key]:
                lines.append(f"  {_quoted(source)} -> {_quoted(run.key)};")
        return "\n".join([*lines, "}", ""])

    def save_svg(self, path: str | Path) -> None:
        """Write the drawing to a file.

        Raises
        ------
        FileNotFoundError
            Graphviz's `dot` is not installed.
        """
        source = self.dot().encode()
        done = subprocess.run(["dot", "-Tsvg"], input=source, stdout=subprocess.PIPE, check=True)
        Path(path).write_bytes(done.stdout)


def _cells(run: Run) -> list[str]:
    times = [run.submitted, run.finished, run.released, run.seconds]
    sizes = [run.input_bytes, run.result_bytes, run.new_bytes, run.peak_bytes, run.expected.peak]
    return [
        run.name,
        *("" if time is None else f"{time:.3f}" for time in times),
        *("" if size is None else format_size(size) for size in sizes),
        str(run.rollbacks),
        "yes" if run.left_to_disk else "",
    ]


def _quoted(text: str) -> str:
    escaped = text.replace('"', '\\"')
    return f'"{escaped}"'
