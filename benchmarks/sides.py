"""Plain Ray and the plugin, alternately in processes of their own, and how they compare."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

Found = dict[str, dict[str, list[Any]]]
"""By case and side, the figures of each round."""


def run_rounds(rounds: int, command: Callable[[str], list[str]]) -> Found:
    """Run both sides so often; who comes first changes with the round.

    command: of a side. It prints, as the last line, a JSON object of each case's figures.
    """
    found: Found = {}
    for number in range(rounds):
        for side in ("plain", "zerrow") if number % 2 == 0 else ("zerrow", "plain"):
            print(f"  round {number + 1}, {side}", file=sys.stderr, flush=True)
            run = subprocess.run(command(side), stdout=subprocess.PIPE, text=True, check=True)
            for case, figures in json.loads(run.stdout.splitlines()[-1]).items():
                found.setdefault(case, {}).setdefault(side, []).append(figures)
    return found


@contextmanager
def ratio_plot(cases: list[str], label: str, path: Path) -> Iterator[Any]:
    """Write a plot of ratios to plain Ray; yields its axes: the n-th case is at height n."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9, 1.5 + 0.35 * len(cases)))
    yield axes
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_yticks(range(len(cases)), cases)
    axes.set_xscale("log", base=2)
    axes.set_xlabel(label)
    figure.tight_layout()
    figure.savefig(path)
