"""Runs a job through Ray from the wheels in dist/, beside the versions that they are made for.

    python tools/matrix.py [--corners] PYTHON ...

For each Python: every pyarrow that its wheel has a module for, with every Ray; with --corners the
oldest and the newest of both alone. The oldest pyarrow comes with the oldest NumPy. Prints a row
for each combination, and exits with 1 if one fails.
"""

import argparse
import itertools
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
JOB = ROOT / "tests" / "install" / "job.py"
RAYS = ["2.57", "2.58", "2.59", "2.60"]
OLDEST_NUMPY = "1.26"


class Environment:
    """A virtual environment with the wheel for a Python, which the versions are installed into."""

    def __init__(self, python: str) -> None:
        code = "import sys; print('cp%d%d' % sys.version_info[:2])"
        tag = subprocess.check_output([python, "-c", code], text=True).strip()
        wheels = [*(ROOT / "dist").glob(f"zerrow_store-*-{tag}-*_{os.uname().machine}.whl")]
        if len(wheels) != 1:
            sys.exit(f'dist has no wheel for {tag}: make wheels PYTHONS="{python}"')
        self.wheel = wheels[0]
        self._root = ROOT / "build" / "matrix" / tag
        shutil.rmtree(self._root, ignore_errors=True)
        subprocess.run([python, "-m", "venv", self._root], check=True)
        self.install("pip>=25")

    def pyarrows(self) -> list[str]:
        """Return the major versions of the pyarrows that the wheel has modules for."""
        names = zipfile.ZipFile(self.wheel).namelist()
        found = {int(so) // 100 for name in names for so in re.findall(r"/libarrow_(\d+)/", name)}
        return [str(version) for version in sorted(found)]

    def install(self, *requirements: str) -> str:
        """Return why that failed, or nothing."""
        done = self._run("-m", "pip", "install", "--quiet", "--only-binary", ":all:", *requirements)
        return done.stderr if done.returncode else ""

    def try_job(self, pyarrow: str, ray: str, numpy: str) -> str:
        """Run the job beside these versions; return why that failed, or nothing."""
        wanted = [f"pyarrow=={pyarrow}.*", f"ray=={ray}.*"]
        wanted += [f"numpy=={numpy}.*" if numpy else "numpy>=2"]
        if failure := self.install(f"{self.wheel}[ray]", *wanted):
            return failure
        versions = [f"--pyarrow={pyarrow}.", f"--ray={ray}.", f"--numpy={numpy}"]
        done = self._run(str(JOB), "--installed", *versions)
        return done.stderr if done.returncode else ""

    def _run(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        apart = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        command = [str(self._root / "bin" / "python"), *arguments]
        return subprocess.run(command, cwd=self._root, env=apart, capture_output=True, text=True)


def ends(versions: list[str]) -> list[str]:
    return sorted({versions[0], versions[-1]}, key=versions.index)


def combinations(environment: Environment, corners: bool) -> Iterator[tuple[str, str, str]]:
    pyarrows, rays = environment.pyarrows(), RAYS
    if corners:
        pyarrows, rays = ends(pyarrows), ends(rays)
    # No NumPy has wheels for both ends of the Pythons.
    has_oldest = "cp313" not in environment.wheel.name
    for pyarrow, ray in itertools.product(pyarrows, rays):
        yield pyarrow, ray, OLDEST_NUMPY if has_oldest and pyarrow == pyarrows[0] else ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--corners", action="store_true")
    parser.add_argument("pythons", nargs="+", metavar="PYTHON")
    given = parser.parse_args()
    failures = 0
    for python in given.pythons:
        environment = Environment(python)
        for pyarrow, ray, numpy in combinations(environment, given.corners):
            failure = environment.try_job(pyarrow, ray, numpy)
            failures += bool(failure)
            said = f"{Path(python).name}, pyarrow {pyarrow}, Ray {ray}, NumPy {numpy or '2'}"
            print(f"{said}: {'failed' if failure else 'works'}", flush=True)
            print(failure, end="", file=sys.stderr, flush=True)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
