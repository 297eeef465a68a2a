"""A case of three sides for tests of the report: each of their processes runs `measure`."""

import os
import sys
from pathlib import Path

from benchmarks.report.case import Case, Points, Ratio

LOG = "REPORT_TEST_LOG"
SECONDS = {"plain": 2.0, "ours": 0.5, "hungry": 1.0}


def measure(side: str, part: str, full: bool) -> Points:
    with Path(os.environ[LOG]).open("a") as log:
        log.write(f"{part} {side}\n")
    if side == "broken":
        sys.exit(3)
    if side == "hungry" and part == "2":
        print('{"died": true}', flush=True)
        os._exit(0)
    size = int(part)
    figures = {"seconds": SECONDS[side] * size, "cpu": 1.0, "faults": 10.0, "pss": 2.0**30}
    return {part: figures | {"copied": 0.0 if side == "ours" else 2.0**20 * size}}


def case(**changes: object) -> Case:
    """Return the case, with these changes."""
    known: dict[str, object] = {
        "name": "test",
        "title": "A <test>",
        "what": "Nothing is measured.",
        "sides": ("plain", "ours", "hungry"),
        "quick_parts": ("1", "2"),
        "full_parts": ("1", "2", "4"),
        "measure": measure,
        "axis": "pieces",
        "quick_rounds": 2,
        "ratios": (
            Ratio("ours over plain", "ours", "plain", paper=3.0, claimed=True),
            Ratio("copied", "ours", "plain", "2", "copied", claimed=True),
            Ratio("the wrong way round", "plain", "ours", "1", claimed=True),
        ),
    }
    return Case(**(known | changes))  # type: ignore[arg-type]
