"""Memory is given back when the last reference and view are gone, and not before."""

import gc
import os
import time

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import ray

from tests.helpers.rays import ROWS, make, store_pids, total
from tests.helpers.waiting import eventually
from zerrow_store.native import _native

pytestmark = pytest.mark.usefixtures("cluster")


@ray.remote
def born() -> pa.Table:
    return make()


def test_freed_when_the_last_reference_is_gone():
    before = total()["bytes_stored"]
    ref = born.remote()
    ray.wait([ref])
    assert total()["bytes_stored"] >= before + 8 * ROWS
    del ref
    eventually(lambda: total()["bytes_stored"] <= before, "the result is freed")


def test_a_view_alone_keeps_the_bytes():
    before = total()["bytes_stored"]
    ref = born.remote()
    view = ray.get(ref)["x"].chunk(0).slice(10, 100).to_numpy()
    del ref
    gc.collect()
    # Other objects come and go meanwhile, so that wrongly freed memory would be reused.
    for _ in range(5):
        ray.get(born.remote())
    assert total()["bytes_stored"] >= before + 8 * ROWS
    np.testing.assert_array_equal(view, np.arange(10, 110))
    del view
    eventually(lambda: total()["bytes_stored"] <= before, "the view's bytes are freed")


def test_memory_goes_back_to_the_kernel():
    def resident() -> int:
        return os.fstat(_native.arena_segment()[1]).st_blocks * 512

    _native.ArenaProbe.trim(0)  # what other tests freed, and parts of huge pages, too
    before = resident()
    ref = ray.put(make())
    assert resident() >= before + 8 * ROWS
    del ref
    page = _native.arena_stats()["page"]
    # Two huge pages may be kept by small allocations that others have in them.
    kept = 2 * page if page > os.sysconf("SC_PAGE_SIZE") else 0
    assert kept < 8 * ROWS
    eventually(lambda: resident() <= before + kept, "the pages have gone back")


def test_put_in_a_driver_is_freed():
    before = total()["bytes_stored"]
    for _ in range(20):
        ray.put(make())
    eventually(lambda: total()["bytes_stored"] <= before, "puts are freed")


ENDINGS = {
    "returns its argument": "return table",
    "returns it and more": "return [table, table.slice(5)]",
    "returns it and a reference": "return [table, ray.put(1)]",
    "returns a fresh one": "return table.append_column('y', pc.add(table['x'], 1))",
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_results_outlive_their_workers(ending):
    before = total()["objects"]
    scope = {"__name__": "__main__", "ray": ray, "pc": pc}
    exec(f"def body(table):\n    {ENDINGS[ending]}", scope)
    once = ray.remote(max_calls=1)(scope["body"])
    table = make()
    refs = [once.remote(table) for _ in range(4)]
    ray.wait(refs, num_returns=4)
    time.sleep(2)  # for the news of their ends to reach everybody
    for ref in refs:
        got = ray.get(ref)
        assert (got[0] if isinstance(got, list) else got)["x"].equals(table["x"])
    del ref, refs, got
    eventually(lambda: total()["objects"] <= before, "nothing is left")


def usage(pids):
    processes = [psutil.Process(pid) for pid in pids]
    return {
        "descriptors": sum(p.num_fds() for p in processes),
        "mappings": sum(len(p.memory_maps(grouped=False)) for p in processes),
        "pss": sum(p.memory_full_info().pss for p in processes),
    }


@pytest.mark.slow
def test_ten_thousand_tables_leave_nothing():
    rows = 600_000

    @ray.remote
    class Pipe:
        def pid(self):
            return os.getpid()

        def run(self, table):
            return pa.table({"x": pc.add(table["x"], 1)})

    pipes = [Pipe.remote() for _ in range(2)]
    pids = [os.getpid(), *ray.get([p.pid.remote() for p in pipes]), *store_pids()]
    source = ray.put(pa.table({"x": pc.add(pa.array(np.arange(rows)), 0)}))

    def push(count):
        pending = []
        for i in range(count):
            pending.append(pipes[i % 2].run.remote(source))
            if len(pending) >= 20:
                ray.get(pending.pop(0))
        ray.get(pending)

    push(500)
    before_bytes = total()["bytes_stored"]
    eventually(lambda: total()["objects"] == 1, "the warm-up is freed")
    before_bytes = total()["bytes_stored"]
    before = usage(pids)
    push(10_000)
    eventually(lambda: total()["objects"] == 1, "all but the source is freed")
    assert total()["bytes_stored"] == before_bytes
    eventually(lambda: usage(pids)["pss"] < before["pss"] + 100 * 2**20, "memory is where it was")
    after = usage(pids)
    assert after["descriptors"] <= before["descriptors"] + 20
    assert after["mappings"] <= before["mappings"] + 50
