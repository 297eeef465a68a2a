"""A store of each test's own, as the command starts it."""

import uuid

import pytest

from tests.helpers.python import zerrow


@pytest.fixture
def name():
    chosen = f"test-{uuid.uuid4().hex[:12]}"
    started = zerrow("start", "--name", chosen, "--memory", "512MiB")
    assert started.returncode == 0, started.stderr
    assert "512 MiB" in started.stdout
    yield chosen
    zerrow("stop", "--name", chosen)
