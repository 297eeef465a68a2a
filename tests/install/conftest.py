"""Environments that know nothing of the one the tests run in, and what is installed into them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

DIST = Path(__file__).parents[2] / "dist"
TAG = f"cp{sys.version_info[0]}{sys.version_info[1]}"


@pytest.fixture(scope="session")
def wheel() -> Path:
    found = [*DIST.glob(f"zerrow_store-*-{TAG}-*_{os.uname().machine}.whl")]
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
