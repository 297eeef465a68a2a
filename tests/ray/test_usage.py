"""Ray's ways of passing values, each with tables that go by reference."""

import asyncio
import dataclasses
import os
import pickle

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import ray

import zerrow_ray
from tests.helpers.python import run_python
from tests.helpers.rays import Moved, total

pytestmark = pytest.mark.usefixtures("cluster")

ROWS = 1_000_000


def make(seed: int = 0) -> pa.Table:
    column = pc.add(pa.array(np.arange(ROWS)), seed)
    return pa.table({"x": column, "y": pc.multiply(column, 2)})


@ray.remote
def remote_sum(value) -> int:
    return pc.sum(value["x"]).as_py()


SUM = ROWS * (ROWS - 1) // 2


@dataclasses.dataclass
class Holder:
    name: str
    tables: dict


@pytest.mark.parametrize(
    "wrap",
    [
        lambda t: [t, [t]],
        lambda t: {"a": {"b": t}},
        lambda t: (1, t, "x"),
        lambda t: Holder("h", {"t": t}),
    ],
    ids=["list", "dict", "tuple", "dataclass"],
)
def test_nested_in_containers(wrap):
    with Moved() as moved:
        got = ray.get(ray.put(wrap(make())))
    assert moved.shared > 0
    assert moved.copied == 0
    assert got == wrap(make())


@pytest.mark.parametrize(
    "convert",
    [
        lambda t: t,
        lambda t: t.combine_chunks().to_batches()[0],
        lambda t: t["x"],
        lambda t: t["x"].chunk(0),
    ],
    ids=["Table", "RecordBatch", "ChunkedArray", "Array"],
)
def test_all_four_kinds(convert):
    value = convert(make())
    with Moved() as moved:
        got = ray.get(ray.put(value))
    assert type(got) is type(value)
    assert got.equals(value)
    assert moved.shared > 0


def test_argument_given_by_value():
    with Moved() as moved:
        assert ray.get(remote_sum.remote(make())) == SUM
    assert moved.shared > 0


def test_actor_keeps_a_table():
    @ray.remote
    class Keeper:
        def set(self, table):
            self.table = table

        def get(self):
            return self.table

        def sum(self):
            return pc.sum(self.table["x"]).as_py()

    keeper = Keeper.remote()
    ray.get(keeper.set.remote(make()))
    assert ray.get(keeper.sum.remote()) == SUM
    with Moved() as moved:
        refs = [keeper.get.remote() for _ in range(5)]
        tables = ray.get(refs)
    assert moved.copied == 0
    assert moved.stored == 0
    assert all(table.equals(make()) for table in tables)


def test_async_actor():
    @ray.remote
    class Async:
        async def double(self, table):
            await asyncio.sleep(0)
            return table.append_column("z", pc.multiply(table["x"], 2))

    actor = Async.remote()
    ref = ray.put(make())
    for got in ray.get([actor.double.remote(ref) for _ in range(8)]):
        assert got["z"].equals(pc.multiply(make()["x"], 2))


def test_threaded_actor():
    @ray.remote(max_concurrency=4)
    class Threaded:
        def add(self, table, n):
            return pa.table({"x": pc.add(table["x"], n)})

    actor = Threaded.remote()
    ref = ray.put(make())
    results = ray.get([actor.add.remote(ref, n) for n in range(16)])
    for n, got in enumerate(results):
        assert pc.sum(got["x"]).as_py() == SUM + n * ROWS


def test_streaming_generator():
    @ray.remote
    def stream(n):
        for i in range(n):
            yield make(i)

    for i, ref in enumerate(stream.remote(6)):
        assert ray.get(ref).equals(make(i))


def test_retried_task(tmp_path):
    @ray.remote(max_retries=2)
    def dies_once(table, marker):
        if not os.path.exists(marker):
            open(marker, "w").close()
            os._exit(1)
        return table.append_column("z", table["x"])

    got = ray.get(dies_once.remote(ray.put(make()), str(tmp_path / "marker")))
    assert got["z"].equals(make()["x"])


def test_max_calls_1_worker_ends_but_its_result_stays():
    @ray.remote(max_calls=1)
    def born_and_gone():
        return make(), os.getpid()

    refs = [born_and_gone.remote() for _ in range(4)]
    for ref in refs:
        table, _ = ray.get(ref)
        assert table.equals(make())


def test_closures_and_plain_pickle_take_their_own_path():
    table = make()

    @ray.remote
    def closed_over():
        return pc.sum(table["x"]).as_py()

    with Moved() as moved:
        assert ray.get(closed_over.remote()) == SUM
        assert pickle.loads(pickle.dumps(table)).equals(table)
        assert ray.cloudpickle.loads(ray.cloudpickle.dumps(table)).equals(table)
    assert moved.shared == 0


def test_small_tables_take_rays_own_path():
    small = pa.table({"x": [1, 2, 3]})
    with Moved() as moved:
        assert ray.get(ray.put(small)).equals(small)
    assert (moved.shared, moved.copied, moved.stored) == (0, 0, 0)


def test_fork_in_a_worker():
    @ray.remote
    def forks(table):
        out = pc.add(table["x"], 1)
        pid = os.fork()
        if pid == 0:
            scratch = pc.multiply(out, 0)
            os._exit(0 if pc.sum(scratch).as_py() == 0 and pc.sum(out).as_py() > 0 else 1)
        _, status = os.waitpid(pid, 0)
        return pa.table({"x": out}), os.waitstatus_to_exitcode(status)

    table, code = ray.get(forks.remote(ray.put(make())))
    assert code == 0
    assert pc.sum(table["x"]).as_py() == SUM + ROWS


DRIVER = """
import numpy as np, pyarrow as pa, pyarrow.compute as pc, ray, zerrow_ray
{init}
@ray.remote
def double(t):
    return pa.table({{"x": pc.multiply(t["x"], 2)}})
t = pa.table({{"x": pc.add(pa.array(np.arange(1_000_000)), 0)}})
before = zerrow_ray.stats().total
out = ray.get(double.remote(ray.put(t)))
after = zerrow_ray.stats().total
assert pc.sum(out["x"]).as_py() == 999_999_000_000
print(*(getattr(after, key) - getattr(before, key) for key in ("bytes_shared", "bytes_copied")))
"""


def cluster_address() -> str:
    return ray.get_runtime_context().gcs_address


def test_second_driver_on_the_cluster():
    held = ray.put(make())
    out = run_python(DRIVER.format(init=f"zerrow_ray.init(address={cluster_address()!r})"))
    shared, copied = map(int, out.split())
    assert shared >= 2 * 8 * ROWS
    assert copied == 0
    assert ray.get(held).equals(make())


def test_environment_variable_and_no_change_of_code():
    out = run_python(
        DRIVER.format(init=f"ray.init(address={cluster_address()!r})"),
        RAY_RUNTIME_ENV_HOOK="zerrow_ray.runtime_env_hook",
    )
    shared, copied = map(int, out.split())
    assert shared >= 2 * 8 * ROWS
    assert copied == 0


def test_registered_after_init_workers_without_the_hook():
    init = f"ray.init(address={cluster_address()!r}); zerrow_ray.register()"
    shared, copied = map(int, run_python(DRIVER.format(init=init)).split())
    assert shared >= 8 * ROWS
    assert copied == 0


def test_own_setup_hook_runs_first():
    code = f"""
    import os, ray, zerrow_ray
    def my_hook():
        os.environ["MY_HOOK"] = "ran"
    env = {{"worker_process_setup_hook": my_hook}}
    zerrow_ray.init(address={cluster_address()!r}, runtime_env=env)
    print(ray.get(ray.remote(lambda: os.environ["MY_HOOK"]).remote()))
    """
    assert run_python(code).strip() == "ran"


def test_without_a_store_tables_take_rays_own_path():
    code = f"""
    import pyarrow as pa, numpy as np, ray, zerrow_ray
    zerrow_ray.init(address={cluster_address()!r})
    t = pa.table({{"x": np.arange(10_000_000)}})
    assert ray.get(ray.put(t)).equals(t)
    print(zerrow_ray.stats().total.bytes_stored)
    """
    before = total()["bytes_stored"]
    assert int(run_python(code, ZERROW_THRESHOLD="1TiB")) == before


def test_stats_add_up():
    ref = ray.put(make())
    stats = zerrow_ray.stats()
    assert list(stats.nodes) == [node["NodeID"] for node in ray.nodes()]
    for key in ("objects", "bytes_stored", "bytes_shared", "bytes_reshared", "bytes_copied"):
        assert getattr(stats.total, key) == sum(getattr(n, key) for n in stats.nodes.values())
    assert stats.total.objects >= 1
    del ref


def test_what_does_not_fit_takes_rays_own_path_with_one_warning():
    code = """
    import logging, numpy as np, pyarrow as pa, ray, zerrow_ray
    from tests.helpers.rays import RAY_OPTIONS
    warnings = []
    handler = logging.Handler()
    handler.emit = lambda record: warnings.append(record.getMessage())
    logging.getLogger("zerrow_ray").addHandler(handler)
    zerrow_ray.init(**RAY_OPTIONS)
    big = pa.table({"x": np.arange(10_000_000)})
    small = pa.table({"x": np.arange(1_000_000)})
    refs = [ray.put(big), ray.put(big), ray.put(small)]
    assert all(ray.get(ref).equals(table) for ref, table in zip(refs, [big, big, small]))
    total = zerrow_ray.stats().total
    assert total.bytes_stored + total.bytes_spilled == small.nbytes
    (warning,) = warnings
    print(warning)
    """
    out = run_python(code, ZERROW_MEMORY="16MiB")
    assert "StoreFullError: the store is full: 80,000,000 bytes needed, 0 of 16,777,216" in out
