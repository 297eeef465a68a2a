"""Tests of moving need a device: the module's, in QEMU, or the emulated one (test_emulated.py)."""

import os
from collections.abc import Iterator

import pytest

from zerrow_store import memory
from zerrow_store.config import MemoryConfig
from zerrow_store.memory import kernelzero
from zerrow_store.native import _native

collect_ignore = (
    [] if kernelzero.probe().available else ["test_moving.py", "test_rooms.py", "test_store.py"]
)


@pytest.fixture
def moving() -> Iterator[None]:
    """Nothing comes from the arena, and what is published is moved."""
    environ = {"ZERROW_CAPTURE_ARROW": "0", "ZERROW_CAPTURE_NUMPY": "0", "ZERROW_KERNELZERO": "on"}
    memory.start(MemoryConfig.from_environment(os.environ | environ))
    yield
    memory.stop()
    assert _native.deanon_stats()["not_returned"] == 0
