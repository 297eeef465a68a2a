"""pyarrow's own shipped tests with the captures on and off: outcomes must be the same.

    python -m tests.nightly.pyarrow_suite

Both runs go side by side, each in a process of its own. Prints what differs; exits 1 unless
that is exactly what is expected to differ.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import pyarrow

ROOT = Path(__file__).parents[2]
FILES = [
    "test_compute.py",
    "test_table.py",
    "test_array.py",
    "test_memory.py",
    "parquet",
    "test_dataset.py",
    "test_acero.py",
]
# These assert the name of the default pool, which is "zerrow" while captured; mimalloc's
# pool is the same object.
EXPECTED = {
    "tests/test_memory.py::test_default_backend_name",
    "tests/test_memory.py::test_memory_pool_factories",
}


def start_run(capture: bool, folder: Path) -> subprocess.Popen[bytes]:
    tests = Path(pyarrow.__file__).parent / "tests"
    mode = "on" if capture else "off"
    environ = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        "ZERROW_SUITE_CAPTURE": str(int(capture)),
        "ZERROW_SUITE_OUTCOMES": str(folder / f"{mode}.jsonl"),
    }
    plain = ["-c", os.devnull, "--rootdir", str(tests.parent), "-p", "no:cacheprovider"]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.nightly.outcomes_plugin", *plain]
    with open(folder / f"{mode}.log", "wb") as log:
        return subprocess.Popen(
            [*command, "--basetemp", str(folder / mode), *(str(tests / file) for file in FILES)],
            env=environ,
            cwd=ROOT,
            stdout=log,
            stderr=subprocess.STDOUT,
        )


def read_outcomes(path: Path) -> dict[str, str]:
    """Read outcomes; of several for one test (call, tear-down) the first that did not pass."""
    outcomes: dict[str, str] = {}
    for line in path.read_text().splitlines() if path.exists() else []:
        test, outcome = json.loads(line)
        if outcomes.get(test, "passed") == "passed":
            outcomes[test] = outcome
    return outcomes


def main() -> int:
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        runs = [start_run(capture, folder) for capture in (False, True)]
        codes = [run.wait() for run in runs]
        off, on = read_outcomes(folder / "off.jsonl"), read_outcomes(folder / "on.jsonl")
        # pytest's 0 and 1: all was run, and passed or not.
        for mode, code in zip(("off", "on"), codes, strict=True):
            if code not in (0, 1):
                print(f"the run with captures {mode} ended with {code}:")
                print((folder / f"{mode}.log").read_text()[-4000:])
    for mode, outcomes in (("off", off), ("on", on)):
        print(f"captures {mode}: {len(outcomes)} tests, {dict(Counter(outcomes.values()))}")
    differing = {test for test in off | on if off.get(test) != on.get(test)}
    for test in sorted(differing):
        known = " (expected)" if test in EXPECTED else ""
        print(f"{test}: {off.get(test)} -> {on.get(test)}{known}")
    print(f"{len(differing)} differ; {time.monotonic() - started:.0f} seconds")
    complete = bool(off) and set(codes) <= {0, 1}
    return 0 if complete and differing == EXPECTED else 1


if __name__ == "__main__":
    sys.exit(main())
