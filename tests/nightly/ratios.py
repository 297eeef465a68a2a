"""Ratios of the report's small cases, compared with those of the nights before on this machine.

A ratio is wrong if it is less than `TOLERANCE` of the median of what is known: times on shared
machines differ. Each night's are added to `results/ratios.json`, with the load average. Exits with
1 if one is wrong; of the first night nothing is.
"""

import dataclasses
import json
import math
import os
import statistics
import sys
import time
from typing import Any

from benchmarks.report import runner
from benchmarks.report.break_even import BYTES, CONSUMING
from benchmarks.report.numbers import outcomes
from benchmarks.report.zero_copy import CASE as ZERO_COPY

CASES = (ZERO_COPY, BYTES, CONSUMING)
ROUNDS = 5
TOLERANCE = 0.6
KNOWN = runner.ROOT / "results" / "ratios.json"


def measure() -> dict[str, float]:
    """Return tonight's ratios by name; those of nothing to something are left out."""
    found = {}
    for case in CASES:
        record = runner.run(dataclasses.replace(case, quick_rounds=ROUNDS), False)
        for outcome in outcomes(case, record):
            if math.isfinite(outcome.times):
                found[f"{case.name}: {outcome.ratio.what}"] = outcome.times
    return found


def wrong(tonight: dict[str, float], nights: list[dict[str, Any]]) -> list[str]:
    """Return a line for each ratio that is less than it was."""
    lines = []
    for name, times in tonight.items():
        known = [night["ratios"][name] for night in nights if name in night["ratios"]]
        if known and times < TOLERANCE * statistics.median(known):
            lines.append(f"{name}: {times:.2f} times, before {statistics.median(known):.2f}")
    return lines


def main() -> int:
    nights = json.loads(KNOWN.read_text()) if KNOWN.exists() else []
    load = os.getloadavg()
    tonight = measure()
    lines = wrong(tonight, nights)
    print("\n".join(lines) or f"{len(tonight)} ratios, none less than in {len(nights)} nights")
    night = {"when": time.time(), "load": load, "revision": runner.revision(), "ratios": tonight}
    KNOWN.parent.mkdir(exist_ok=True)
    KNOWN.write_text(json.dumps([*nights, night], indent=1))
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
