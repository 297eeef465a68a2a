"""The wheel for this Python, and an environment to install it into."""

from pathlib import Path

import pytest

from tests.helpers.environments import Environment, wheel_for


@pytest.fixture(scope="session")
def wheel() -> Path:
    found = wheel_for()
    if found is None:
        pytest.skip("dist has no wheel for this Python: make wheels")
    return found


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    return Environment(tmp_path / "environment")
