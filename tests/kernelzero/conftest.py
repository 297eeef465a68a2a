"""Tests of moving need a device: the module's, in QEMU, or the emulated one (test_emulated.py)."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from zerrow_store import memory
from zerrow_store.config import MemoryConfig
from zerrow_store.memory import kernelzero
from zerrow_store.native import _native

PAGE = 4096

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


def mappings_of_moved_files() -> list[tuple[int, int]]:
    """Return the private mappings (start, end) of moved files, as the kernel shows them."""
    found = re.findall(
        r"^(\w+)-(\w+) rw-p .*zerrow-moved", Path("/proc/self/maps").read_text(), re.M
    )
    return [(int(start, 16), int(end, 16)) for start, end in found]


def publish(data: Any) -> _native.Encoded:
    return _native.encode(data, move=True)


def through(encoded: _native.Encoded) -> Any:
    return _native.decode(encoded.message, encoded)


def descriptors() -> list[str]:
    """Return what this process has open of moved memory."""
    links = []
    for entry in Path("/proc/self/fd").iterdir():
        try:
            links.append(os.readlink(entry))
        except FileNotFoundError:
            continue
    return [link for link in links if "zerrow-moved" in link]
