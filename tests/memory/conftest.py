"""Fixtures: the captures on, for a test."""

from collections.abc import Iterator

import pytest

from zerrow_store import memory


@pytest.fixture
def captured() -> Iterator[None]:
    assert memory.start() == {"arrow": True, "numpy": True}
    yield
    memory.stop()
