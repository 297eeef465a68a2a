"""What ran, how long and how many bytes: as a table and as a drawing."""

import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from zerrow_ray.dag.estimates import Need
from zerrow_ray.dag.measured import Measured
from zerrow_ray.dag.plan import Plan
from zerrow_store.sizes import format_size


@dataclass
class Run:
    """One run of a step. Times in seconds after the DAG's start, sizes in bytes.

    What only a task can report is None for actors, their calls and generators. Of a step that was
    rolled back it is the last run; expected_again: the seconds that running it again, with all that
    it needs, was expected to take. left_to_disk: it made room by being left to the store to spill.
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
        """Note that this run repeats one whose result was rolled back."""
        self.rollbacks, self.expected_again = previous.rollbacks, previous.expected_again

    def finish(self, when: float, report: Measured | None) -> None:
        """Enter what a finished run has told."""
        self.finished = when
        if report is not None:
            self.seconds = report.seconds
            self.result_bytes, self.new_bytes = report.result, report.new
            self.peak_bytes, self.worker = report.peak, report.pid


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
    """What `execute` did. `runs` are in the order of the plan, which is depth first.

    str() gives a table: times in seconds after the DAG's start; `seconds` in the function itself;
    `result` is what a step returned, `new` how much of it was in no segment before, `peak` by how
    much its worker grew, `expected` what it was admitted with; `rollbacks` is how often its result
    was dropped, to be made again; `spilled` was left to the store, to make room.
    """

    def __init__(self, plan: Plan, runs: list[Run]) -> None:
        self._inputs = {step.key: step.inputs for step in plan.steps.values()}
        self.runs = runs

    def rows(self) -> list[dict[str, Any]]:
        """Return a record for each step, with plain numbers."""
        return [asdict(run) for run in self.runs]

    def __str__(self) -> str:
        cells = [list(_COLUMNS), *(_cells(run) for run in self.runs)]
        widths = [max(len(row[i]) for row in cells) for i in range(len(_COLUMNS))]
        lines = (
            [
                row[0].ljust(widths[0]),
                *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True)),
            ]
            for row in cells
        )
        return "\n".join("  ".join(line) for line in lines)

    def dot(self) -> str:
        """Return the drawing as Graphviz's source."""
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
        """Draw it into a file. Raises FileNotFoundError if Graphviz's `dot` is not installed."""
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
