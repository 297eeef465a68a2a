"""One Ray with the plugin on, shared by the tests of a module; every table goes by reference."""

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc
import pytest
import ray
import ray._private.services

import zerrow_ray
from tests.helpers import lost_results
from tests.helpers.lost_results import Nodes
from tests.helpers.rays import RAY_OPTIONS, start_patiently


@pytest.fixture(autouse=True, scope="session")
def _settings() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        start_patiently(patch)
        # Between nodes, the tests' tables would go Ray's way by default.
        patch.setenv("ZERROW_THRESHOLD", "4MiB")
        # A killed node is noticed after 2.5 seconds, not 15; a slow one as late as ever.
        patch.setenv("RAY_health_check_period_ms", "500")
        yield


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """A running Ray of this module's own."""
    zerrow_ray.init(**RAY_OPTIONS)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def killable_nodes() -> Iterator[Nodes]:
    """The driver's node, and others that a test can add and kill."""
    with lost_results.nodes() as found:
        yield found


@pytest.fixture
def nodes(killable_nodes: Nodes) -> Iterator[Nodes]:
    """The driver's node, and one called "first"."""
    killable_nodes.add("first")
    yield killable_nodes
    killable_nodes.remove_all()


@pytest.fixture
def big() -> pa.Table:
    """A table of 160 MB with ten columns, born in the arena."""
    rows = 2_000_000
    column = pa.array(range(1000)).take(pa.array([i % 1000 for i in range(1000)] * (rows // 1000)))
    return pa.table({f"c{i}": pc.add(column, i) for i in range(10)})
