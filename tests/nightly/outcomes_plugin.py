"""A pytest plugin for runs of other projects' tests: captures on or off, outcomes to a file.

ZERROW_SUITE_CAPTURE is 1 or 0; ZERROW_SUITE_OUTCOMES names the file, one JSON list
[test id, outcome] a line. A line is written at once, so that a crash shows where it was.
"""

import json
import os

import pytest

from zerrow_store import memory
from zerrow_store.native import _native


def pytest_configure() -> None:
    if os.environ["ZERROW_SUITE_CAPTURE"] == "1":
        memory.start()
    expected = os.environ["ZERROW_SUITE_CAPTURE"] == "1"
    if set(_native.captured().values()) != {expected}:
        raise pytest.UsageError(f"captures are not as asked for: {_native.captured()}")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    # A test counts by its call; set-up and tear-down only when they do not pass.
    if report.when != "call" and report.passed:
        return
    outcome = report.outcome if report.when == "call" else f"{report.when} {report.outcome}"
    with open(os.environ["ZERROW_SUITE_OUTCOMES"], "a") as file:
        file.write(json.dumps([report.nodeid, outcome]) + "\n")
