"""`make nightly`: pyarrow's own tests, which ship with it, with the captures on and off.

Run as a program; ends with 1 if a test comes out differently with the captures on, beyond the ones
that ask for the pool's name.
"""

import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pyarrow

SUITES = (
    "test_array.py",
    "test_table.py",
    "test_compute.py",
    "test_acero.py",
    "test_dataset.py",
    "test_memory.py",
    "parquet",
)
# These assert the name, or the identity, of the default pool.
EXPECTED = {"test_memory"}


def outcomes(captured: bool) -> dict[str, str]:
    """Run the suites in a process of their own; returns each test's outcome by its name."""
    folder = Path(pyarrow.__file__).parent / "tests"
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
        command += ["-c", "/dev/null", f"--rootdir={folder}", f"--junitxml={report}"]
        if captured:
            command += ["-p", "tests.nightly.capture_plugin"]
        command += [str(folder / suite) for suite in SUITES]
        subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return {
            f"{case.get('classname')}::{case.get('name')}": case[0].tag if len(case) else "passed"
            for case in ElementTree.parse(report).getroot().iter("testcase")
        }


def main() -> int:
    without, with_ = outcomes(False), outcomes(True)
    different = {
        test: (without.get(test, "missing"), with_.get(test, "missing"))
        for test in sorted(without.keys() | with_.keys())
        if without.get(test) != with_.get(test)
    }
    for test, (before, after) in different.items():
        print(f"{test}: {before} without the captures, {after} with them")
    passed = sum(outcome == "passed" for outcome in with_.values())
    print(
        f"{len(with_)} tests with the captures on, {passed} of them pass; {len(different)} differ"
    )
    unexpected = [t for t in different if not any(name in t for name in EXPECTED)]
    return 1 if unexpected or not with_ else 0


if __name__ == "__main__":
    sys.exit(main())
