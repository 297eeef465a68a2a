"""Sandboxes end with the module that used them, and then nothing of them is left."""

import gc
from collections.abc import Iterator

import cloudpickle
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from tests.helpers import arrow_strategies, escapes
from tests.helpers.sandboxes import elsewhere, groups, sandboxes
from tests.helpers.waiting import eventually
from zerrow_store import memory, sandbox
from zerrow_store.native import _native


@pytest.fixture(autouse=True, scope="package")
def _extension_type() -> Iterator[None]:
    elsewhere.update(_native.mapped_segments())
    pa.register_extension_type(arrow_strategies.PointType())
    yield
    pa.unregister_extension_type("zerrow.test.point")


@pytest.fixture(autouse=True, scope="package")
def _helpers_by_value() -> Iterator[None]:
    """Of what a sandbox cannot import, only the module of the function itself goes by value."""
    cloudpickle.register_pickle_by_value(escapes)
    yield
    cloudpickle.unregister_pickle_by_value(escapes)


@pytest.fixture(autouse=True, scope="module")
def _nothing_is_left() -> Iterator[None]:
    memory.start()
    before = _native.arena_stats()["pinned"]
    yield
    sandbox.close()
    gc.collect()
    eventually(lambda: not sandboxes(), "all sandboxes have ended")
    eventually(lambda: not groups(), "all control groups are gone")
    eventually(lambda: _native.arena_stats()["pinned"] <= before, "nothing more is pinned")


@pytest.fixture
def table() -> pa.Table:
    """A table of 800 kB, born in the arena."""
    column = pc.add(pa.array(np.arange(50_000)), 0)
    return pa.table({"x": column, "y": pc.multiply(column, 2)})
