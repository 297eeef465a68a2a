"""Runs a job through Ray from the wheels in dist/, beside the versions that they are made for.

    python -m tools.matrix [--corners] PYTHON ...

For each Python: every pyarrow that its wheel has a module for, with every Ray; with --corners the
oldest and the newest of both alone. The oldest pyarrow comes with the oldest NumPy. Prints a row
for each combination, and exits with 1 if one fails.
"""

import argparse
import itertools
import re
import shutil
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

from tests.helpers.environments import Environment, wheel_for

ROOT = Path(__file__).parents[1]
JOB = ROOT / "tests" / "install" / "job.py"
RAYS = ["2.57", "2.58", "2.59", "2.60"]
OLDEST_NUMPY = "1.26"


def pyarrows_of(wheel: Path) -> list[str]:
    """Return the major versions of the pyarrows that a wheel has modules for."""
    names = zipfile.ZipFile(wheel).namelist()
    found = {int(so) // 100 for name in names for so in re.findall(r"/libarrow_(\d+)/", name)}
    return [str(version) for version in sorted(found)]


def try_job(environment: Environment, wheel: Path, pyarrow: str, ray: str, numpy: str) -> str:
    """Run the job beside these versions; return why that failed, or nothing."""
    wanted = [f"pyarrow=={pyarrow}.*", f"ray=={ray}.*"]
    wanted += [f"numpy=={numpy}.*" if numpy else "numpy>=2"]
    try:
        environment.install(f"{wheel}[ray]", *wanted)
    except RuntimeError as error:
        return str(error)
    versions = [f"--pyarrow={pyarrow}.", f"--ray={ray}.", f"--numpy={numpy}"]
    done = environment.run(JOB, "--installed", *versions)
    return done.stderr if done.returncode else ""


def ends(versions: list[str]) -> list[str]:
    return sorted({versions[0], versions[-1]}, key=versions.index)


def combinations(wheel: Path, corners: bool) -> Iterator[tuple[str, str, str]]:
    pyarrows, rays = pyarrows_of(wheel), RAYS
    if corners:
        pyarrows, rays = ends(pyarrows), ends(rays)
    # No NumPy has wheels for both ends of the Pythons.
    has_oldest = not re.search("-cp31[34]-", wheel.name)
    for pyarrow, ray in itertools.product(pyarrows, rays):
        yield pyarrow, ray, OLDEST_NUMPY if has_oldest and pyarrow == pyarrows[0] else ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--corners", action="store_true")
    parser.add_argument("pythons", nargs="+", metavar="PYTHON")
    given = parser.parse_args()
    failures = 0
    for python in given.pythons:
        wheel = wheel_for(python)
        if wheel is None:
            sys.exit(f'dist has no wheel for {python}: make wheels PYTHONS="{python}"')
        root = ROOT / "build" / "matrix" / wheel.name.split("-")[2]
        shutil.rmtree(root, ignore_errors=True)
        environment = Environment(root, python)
        environment.install("pip>=25")
        for pyarrow, ray, numpy in combinations(wheel, given.corners):
            failure = try_job(environment, wheel, pyarrow, ray, numpy)
            failures += bool(failure)
            said = f"{Path(python).name}, pyarrow {pyarrow}, Ray {ray}, NumPy {numpy or '2'}"
            print(f"{said}: {'failed' if failure else 'works'}", flush=True)
            print(failure, end="", file=sys.stderr, flush=True)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
