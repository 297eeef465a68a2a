"""What serializes in-band without being a put, an argument or a result takes Ray's own path."""

import time

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import ray
from ray.dag import InputNode
from ray.dag.context import DAGContext

from tests.helpers.rays import ROWS, make, total

pytestmark = pytest.mark.usefixtures("cluster")


@ray.remote
class Stage:
    def total(self, value):
        return int(np.asarray(value["x"]).sum())

    def add(self, table):
        return pa.table({"x": pc.add(table["x"], 1)})


@pytest.fixture(autouse=True, scope="module")
def _patience() -> None:
    """Ray waits for ten seconds, which a busy machine may take for the actors' first imports."""
    context = DAGContext.get_current()
    context.get_timeout = context.submit_timeout = 120


@pytest.mark.parametrize("kind", [make, lambda: pd.DataFrame({"x": np.arange(ROWS)})])
def test_tables_come_through_a_compiled_graph(kind):
    stage = Stage.remote()
    with InputNode() as given:
        graph = stage.total.bind(given).experimental_compile(_buffer_size_bytes=64 << 20)
    try:
        for _ in range(3):
            assert ray.get(graph.execute(kind())) == ROWS * (ROWS - 1) // 2
    finally:
        graph.teardown()


def test_results_of_a_compiled_graph_can_be_read_late():
    first, second = Stage.remote(), Stage.remote()
    with InputNode() as given:
        graph = second.add.bind(first.add.bind(given)).experimental_compile(
            _buffer_size_bytes=64 << 20
        )
    try:
        before = total()["objects"]
        pending = graph.execute(make())
        time.sleep(1.5)
        assert ray.get(pending)["x"][10].as_py() == 12
        assert total()["objects"] == before
    finally:
        graph.teardown()
