"""More data than the store's memory, through Ray."""

import os
import threading
from pathlib import Path

import pytest

from tests.helpers.python import run_python
from tests.helpers.waiting import eventually

PIPELINE = """
import numpy as np, pyarrow as pa, pyarrow.compute as pc, ray, zerrow_ray
from tests.helpers.rays import RAY_OPTIONS
zerrow_ray.init(**RAY_OPTIONS)
ROWS = 2_000_000

def table(n):
    return pa.table({"x": pc.add(pa.array(np.arange(ROWS)), n)})

@ray.remote
def make(n):
    return table(n)

@ray.remote
def double(t):
    return t.append_column("y", pc.multiply(t["x"], 2))

class Keeper:
    def __init__(self):
        self.tables = []
    def keep(self, t):
        self.tables.append(t)
    def sums(self):
        return [pc.sum(t["y"]).as_py() for t in self.tables]

made = [make.remote(n) for n in range(10)]
put = ray.put(table(100))
keeper = ray.remote(Keeper).remote()
doubled = [double.remote(ref) for ref in made]
ray.get(keeper.keep.remote(doubled[0]))
ray.wait(doubled, num_returns=len(doubled), fetch_local=False)
stats = zerrow_ray.stats().total
assert stats.bytes_spilled > 100_000_000, stats
assert stats.bytes_stored <= 128 << 20, stats
assert stats.bytes_copied == 0, stats
assert ray.get(put).equals(table(100))
for n, ref in enumerate(doubled):
    got = ray.get(ref)
    got.validate(full=True)
    assert got["x"].equals(table(n)["x"])
    assert got["y"].equals(pc.multiply(table(n)["x"], 2))
    again = ray.get(double.remote(ref))  # a spilled table is shared again
    assert again["x"].equals(got["x"])
    del got, again
assert ray.get(keeper.sums.remote()) == [2 * sum(range(ROWS))]
assert zerrow_ray.stats().total.bytes_copied == 0
del made, put, doubled, ref, keeper  # the keeper may hold a table that was spilled before it came
import time
for _ in range(300):
    if zerrow_ray.stats().total.bytes_spilled == 0:
        break
    time.sleep(0.1)
print(zerrow_ray.stats().total.bytes_spilled)
"""


def test_a_pipeline_of_several_times_the_memory(tmp_path: Path) -> None:
    out = run_python(PIPELINE, ZERROW_MEMORY="128MiB", ZERROW_SPILL_DIR=str(tmp_path))
    assert out.split() == ["0"]
    assert list(tmp_path.iterdir()) == []


SETTINGS = """
import ray, zerrow_ray
from tests.helpers.rays import RAY_OPTIONS
from zerrow_ray.settings import announced
with zerrow_ray.init(memory="256MiB", eviction="lru", **RAY_OPTIONS):
    (node,) = zerrow_ray.stats().nodes.values()
    print(node.budget, node.eviction, announced().policy())
assert not ray.is_initialized()
for wrong in ({"eviction": "magic"}, {"memory": "much"}, {"memory": 0}):
    try:
        zerrow_ray.init(**wrong, **RAY_OPTIONS)
    except ValueError:
        pass
    assert not ray.is_initialized()
"""


def test_a_driver_says_what_stores_may_hold_and_what_goes() -> None:
    assert run_python(SETTINGS).split() == [str(256 << 20), "lru", "lru"]


def test_it_does_where_the_environment_switches_the_plugin_on_too() -> None:
    hook = "zerrow_ray.runtime_env_hook"
    out = run_python(SETTINGS, RAY_RUNTIME_ENV_HOOK=hook)
    assert out.split() == [str(256 << 20), "lru", "lru"]


IN_A_GROUP = """
import os, sys
open(os.environ["GROUP"] + "/cgroup.procs", "w").write(str(os.getpid()))
import numpy as np, pyarrow as pa, pyarrow.compute as pc, ray, zerrow_ray
from tests.helpers.rays import RAY_OPTIONS
zerrow_ray.init(**{**RAY_OPTIONS, "num_cpus": 2, "object_store_memory": 100 << 20})
ROWS = 16_000_000

@ray.remote
def make(n):
    return pa.table({"x": pc.add(pa.array(np.arange(ROWS)), n)})

@ray.remote
def total(t):
    return pc.sum(t["x"]).as_py()

made = [make.remote(n) for n in range(24)]  # 3 GB
ray.wait(made, num_returns=len(made), fetch_local=False)
print(ray.get([total.remote(ref) for ref in made]) == [
    ROWS * (ROWS - 1) // 2 + n * ROWS for n in range(24)
])
"""

_GROUPS = Path("/sys/fs/cgroup/memory")


@pytest.mark.skipif(
    not (_GROUPS / "memory.limit_in_bytes").exists() or os.geteuid() != 0,
    reason="needs root and a memory cgroup of version 1",
)
def test_the_limit_of_a_cgroup_is_never_hit(tmp_path: Path) -> None:
    group = _GROUPS / f"zerrow-test-{os.getpid()}"
    group.mkdir()
    # What Ray's processes and the workers' interpreters take beside the store's 512 MiB.
    limit = (512 << 20) + (2 << 30)
    (group / "memory.limit_in_bytes").write_text(str(limit))
    used: list[int] = []
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.02):
            stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
            # The page cache is given up when memory is asked for.
            used.append(int(stat["total_rss"]) + int(stat["total_shmem"]))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        out = run_python(
            IN_A_GROUP, GROUP=str(group), ZERROW_MEMORY="512MiB", ZERROW_SPILL_DIR=str(tmp_path)
        )
        kills = (group / "memory.oom_control").read_text()
        # The kernel gives the page cache up when it is asked for, but at the limit, and late.
        most = int((group / "memory.max_usage_in_bytes").read_text())
        failures = int((group / "memory.failcnt").read_text())
    finally:
        over.set()
        watcher.join()
        # Ray's own agents outlive a driver for a moment.
        eventually(lambda: not (group / "cgroup.procs").read_text(), "the group is empty")
        group.rmdir()
    assert out.split() == ["True"]
    assert "oom_kill 0" in kills.splitlines()
    assert max(used) < limit
    assert (failures, most < limit) == (0, True)
