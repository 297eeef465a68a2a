"""A node store for a test: of its own name, supervised, and nothing left of it afterwards."""

import uuid
from collections.abc import Iterator

import pytest

from tests.node.helpers import Store


@pytest.fixture
def store() -> Iterator[Store]:
    made = Store(f"test-{uuid.uuid4().hex[:12]}", budget=1 << 30)
    yield made
    made.stop()
    assert made.remains() == []
