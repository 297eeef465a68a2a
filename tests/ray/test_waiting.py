"""`ray.wait` with other nodes: what is ready is here with its data, as on plain Ray."""

import os
import subprocess
import sys
import threading

import numpy as np
import pandas as pd
import polars as pl
import pytest
import ray

import zerrow_ray
from tests.helpers.rays import make, on
from tests.helpers.waiting import eventually
from zerrow_ray import transfers

ROWS = 1_000_000


def here():
    return ray.get_runtime_context().get_node_id()


def stored(node_id):
    return zerrow_ray.stats().nodes[node_id].bytes_stored


@pytest.fixture
def nodes(nodes):
    eventually(lambda: stored(here()) == 0, "nothing is left of earlier tests")
    return nodes


VALUES = {
    "table": make,
    "list": lambda: [make(1), "beside it", make(2)],
    "pandas": lambda: pd.DataFrame({"x": np.arange(ROWS), "y": np.arange(ROWS) / 2}),
    "polars": lambda: pl.DataFrame({"x": np.arange(ROWS)}),
}


@ray.remote(max_retries=0)
def made(kind):
    return VALUES[kind]()


@ray.remote
class Maker:
    def make(self, kind):
        return VALUES[kind]()


def is_same(value, other):
    if isinstance(value, list):
        return all(map(is_same, value, other))
    return value.equals(other) if hasattr(value, "equals") else value == other


@pytest.mark.parametrize("kind", ["table", "list", "pandas", "polars"])
@pytest.mark.parametrize("of_an_actor", [False, True], ids=["task", "actor"])
def test_what_is_ready_survives_its_node(nodes, kind, of_an_actor):
    """Nobody can make it again."""
    if of_an_actor:
        maker = on(Maker, "first").remote()
        refs = [maker.make.remote(kind) for _ in range(2)]
    else:
        refs = [on(made, "first").remote(kind) for _ in range(2)]
    ready, rest = ray.wait(refs, num_returns=2)
    assert (ready, rest) == (refs, [])
    nodes.kill_and_wait("first")
    for value in ray.get(refs):
        assert is_same(value, VALUES[kind]())


def test_what_was_polled_for_survives_its_node(nodes):
    ref = on(made, "first").remote("table")
    eventually(lambda: ray.wait([ref], timeout=0)[0] == [ref], "it is ready")
    nodes.kill_and_wait("first")
    assert ray.get(ref).equals(make())


def test_what_another_process_of_this_node_waited_for_is_here(nodes):
    @ray.remote
    def waits(refs):
        ray.wait(refs)

    ref = on(made, "first").remote("table")
    ray.get(on(waits, "head").remote([ref]))
    nodes.kill_and_wait("first")
    assert ray.get(ref).equals(make())


@ray.remote(max_retries=0)
def made_after(path, n):
    eventually(lambda: os.path.exists(path), "it may be made", seconds=120)
    return make(n)


def test_what_was_not_ready_follows(nodes, tmp_path):
    """Nothing keeps it for longer than its references do."""
    path = tmp_path / "now"
    refs = [on(made_after, "first").remote(str(path), n) for n in range(3)]
    assert ray.wait(refs, timeout=0) == ([], refs)
    path.touch()
    eventually(lambda: stored(here()) >= 3 * make().nbytes, "their data has come")
    nodes.kill_and_wait("first")
    for n, table in enumerate(ray.get(refs)):
        assert table.equals(make(n))
        del table
    del refs
    eventually(lambda: stored(here()) == 0, "the copies go with the references")


def test_references_that_are_dropped_are_not_waited_for(nodes, tmp_path):
    path = tmp_path / "now"
    refs = [on(made_after, "first").remote(str(path), n) for n in range(3)]
    ray.wait(refs, timeout=0)
    del refs[:2]
    path.touch()
    eventually(lambda: stored(here()) >= make().nbytes, "the data of the last one has come")
    first = nodes.id_of("first")
    eventually(lambda: stored(first) < 2 * make().nbytes, "the others are gone")
    assert stored(here()) < 2 * make().nbytes


@ray.remote(max_retries=0)
def streams(path):
    yield make(1)
    eventually(lambda: os.path.exists(path), "the second one is wanted", seconds=600)
    yield make(2)


def test_the_next_item_of_a_ready_stream_is_here(nodes, tmp_path):
    stream = on(streams, "first").remote(str(tmp_path / "now"))
    assert ray.wait([stream]) == ([stream], [])
    assert make().nbytes <= stored(here()) < 2 * make().nbytes
    (tmp_path / "now").touch()
    assert [ray.get(ref).equals(make(n)) for n, ref in enumerate(stream, 1)] == [True] * 2


def test_a_stream_at_its_end_is_ready(nodes, tmp_path):
    (tmp_path / "now").touch()
    stream = on(streams, "first").remote(str(tmp_path / "now"))
    for n in (1, 2):
        assert ray.wait([stream]) == ([stream], [])
        assert ray.get(next(stream)).equals(make(n))
    assert ray.wait([stream]) == ([stream], [])
    with pytest.raises(StopIteration):
        next(stream)


@pytest.fixture
def gate(monkeypatch):
    """Nothing is fetched ahead before this is set."""
    gate, fetch_ahead = threading.Event(), transfers.fetch_ahead

    def fetch_later(*wanted):
        gate.wait()
        fetch_ahead(*wanted)

    monkeypatch.setattr(transfers, "fetch_ahead", fetch_later)
    yield gate
    gate.set()


def test_what_does_not_come_in_time_is_not_ready(nodes, gate):
    far = [on(made, "first").remote("table") for _ in range(2)]
    near, small, failed = ray.put(make()), ray.put(1), on(fails, "first").remote()
    refs = [far[0], near, far[1], small, failed]
    ray.wait(refs, num_returns=5, fetch_local=False)
    assert ray.wait(far, timeout=0) == ([], far)
    assert ray.wait(far, num_returns=2, timeout=0.1) == ([], far)
    ready, rest = ray.wait(refs, num_returns=2, timeout=1)
    assert len(ready) == 2
    assert set(ready) < {near, small, failed}
    assert rest == [ref for ref in refs if ref not in ready]
    assert ray.wait(refs, num_returns=5, timeout=1) == ([near, small, failed], far)
    assert ray.wait(far, num_returns=2, fetch_local=False) == (far, [])
    gate.set()
    assert ray.wait(far, num_returns=2) == (far, [])
    assert ray.wait(refs, num_returns=5, timeout=0) == (refs, [])


@ray.remote(max_retries=0)
def fails():
    raise ValueError("as it should")


def test_nothing_is_fetched_where_that_is_not_asked_for(nodes):
    ref = on(made, "first").remote("table")
    ray.wait([ref], fetch_local=False)
    assert stored(here()) == 0
    ray.wait([ref])
    assert stored(here()) >= make().nbytes


def test_what_is_read_at_once_travels_side_by_side(nodes, monkeypatch):
    """Both have come while the first one is still read."""
    refs = [on(made, "first").remote("table") for _ in range(2)]
    ray.wait(refs, num_returns=2, fetch_local=False)
    gate, fetch = threading.Event(), transfers.fetch

    def fetch_later(*wanted):
        gate.wait()
        return fetch(*wanted)

    monkeypatch.setattr(transfers, "fetch", fetch_later)
    got = []
    reading = threading.Thread(target=lambda: got.extend(ray.get(refs)))
    reading.start()
    try:
        eventually(lambda: stored(here()) >= 2 * make().nbytes, "both have come")
        assert got == []
    finally:
        gate.set()
        reading.join()
    assert all(table.equals(make()) for table in got)


def test_results_that_come_while_others_are_waited_for(nodes):
    """The store asks this process whose they are, while it asks the store what is here."""
    for _ in range(3):
        rest = [on(ray.remote(make), "first").remote(n) for n in range(20)]
        while rest:
            (ref,), rest = ray.wait(rest, timeout=120)
            assert ray.get(ref).num_columns == 1


def test_bad_arguments_are_rays_own_errors(nodes):
    ref = ray.put(1)
    for arguments, options, error in [
        ([ref], {}, TypeError),
        ([[1]], {}, TypeError),
        ([[ref, ref]], {}, ValueError),
        ([[ref]], {"num_returns": 2}, ValueError),
        ([[ref]], {"timeout": -1}, ValueError),
        ([[ref]], {"unknown": 1}, TypeError),
        ([[ref], 1], {}, TypeError),
    ]:
        with pytest.raises(error):
            ray.wait(*arguments, **options)
    assert ray.wait([]) == ([], [])


ALONE = """
import sys
import ray, zerrow_ray
zerrow_ray.init(address="local", num_cpus=1, log_to_driver=False)
ray.wait([ray.put(1)])
ray.get([ray.put(1), ray.put(2)])
loaded = {"zerrow_ray.waiting", "zerrow_ray.fetching"} & set(sys.modules)
print(sorted(loaded))
"""


def test_a_node_that_is_alone_loads_nothing_for_it():
    ran = subprocess.run([sys.executable, "-c", ALONE], capture_output=True, text=True, timeout=240)
    assert ran.stdout == "[]\n", ran.stderr
