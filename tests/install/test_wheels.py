"""The wheels of `make wheels`, installed by pip as their users do, without the project's source."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import zerrow_store

DIST = Path(__file__).parents[2] / "dist"
JOB = Path(__file__).with_name("job.py")
TAG = f"cp{sys.version_info[0]}{sys.version_info[1]}"
OLD = ["pyarrow==19.0.1", "ray==2.57.*", "numpy==1.26.*"]


@pytest.fixture(scope="session")
def wheel() -> Path:
    found = [*DIST.glob(f"zerrow_store-*-{TAG}-*.whl")]
    if not found:
        pytest.skip(f"dist has no wheel for {TAG}: make wheels")
    assert len(found) == 1, found
    return found[0]


class Environment:
    """A virtual environment that knows nothing of the one the tests run in."""

    def __init__(self, root: Path) -> None:
        self.root = root
        subprocess.run([sys.executable, "-m", "venv", root], check=True)

    def install(self, *requirements: object) -> None:
        pip = ["-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--only-binary"]
        done = self.run(*pip, ":all:", *map(str, requirements))
        assert done.returncode == 0, done.stderr

    def run(self, *arguments: object) -> "subprocess.CompletedProcess[str]":
        apart = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        command = [self.root / "bin" / "python", *arguments]
        return subprocess.run(command, cwd=self.root, env=apart, capture_output=True, text=True)


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    return Environment(tmp_path / "environment")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("there", [[], OLD], ids=["empty", "old"])
def test_a_table_goes_through_ray_by_reference(wheel, environment, there):
    if there:
        environment.install(*there)
    environment.install(f"{wheel}[ray]")
    done = environment.run(JOB)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    for requirement in there:
        package, _, version = requirement.partition("==")
        assert said[package].startswith(version.rstrip("*")), said
    assert said["zerrow_store"] == zerrow_store.__version__
    assert said["package"].startswith(str(environment.root))
    # The module for the one libarrow of the process.
    soname = f"{said['pyarrow'].split('.')[0]}00"
    assert said["libarrows"] == [f"libarrow.so.{soname}"]
    assert f"/libarrow_{soname}/" in said["module"]
    # Both columns were stored once, with a validity bitmap or two; the first went on by reference.
    nbytes = said["nbytes"]
    assert 2 * nbytes <= said["shared"] < 2.1 * nbytes, said
    assert nbytes <= said["reshared"] < 1.1 * nbytes, said
    assert said["copied"] == 0, said
    assert done.stderr.count("is not tested with") == 0, done.stderr


@pytest.mark.timeout(900)
def test_an_unknown_pyarrow_is_refused_with_those_that_are_known(wheel, environment):
    environment.install(wheel)
    environment.install("pyarrow==18.*")
    done = environment.run("-c", "import zerrow_store.native")
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert "built for pyarrow 19.0, " in last, last
    assert "pyarrow 18." in last, last


def test_what_a_wheel_has(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert not [name for name in names if name.endswith((".cc", ".h"))]
    assert not [name for name in names if "libarrow.so" in name or "libarrow_python.so" in name]
    modules = {Path(name).parent.name for name in names if "/_native." in name and ".so" in name}
    assert {
        "libarrow_1900",
        f"libarrow_{zerrow_store.native._build_info.SO_VERSIONS[0]}",
    } <= modules
    assert any(name.endswith("licenses/LICENSE") for name in names)
