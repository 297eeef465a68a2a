"""More data than the store's memory, through Ray."""

from pathlib import Path

from tests.ray.test_usage import run_driver

PIPELINE = """
import numpy as np, pyarrow as pa, pyarrow.compute as pc, ray, zerrow_ray
from tests.ray.conftest import RAY_OPTIONS
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
stats = zerrow_ray.stats()["total"]
assert stats["bytes_spilled"] > 100_000_000, stats
assert stats["bytes_stored"] <= 128 << 20, stats
assert stats["bytes_copied"] == 0, stats
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
assert zerrow_ray.stats()["total"]["bytes_copied"] == 0
del made, put, doubled, ref, keeper  # the keeper may hold a table that was spilled before it came
import time
for _ in range(300):
    if zerrow_ray.stats()["total"]["bytes_spilled"] == 0:
        break
    time.sleep(0.1)
print(zerrow_ray.stats()["total"]["bytes_spilled"])
"""


def test_a_pipeline_of_several_times_the_memory(tmp_path: Path) -> None:
    out = run_driver(PIPELINE, ZERROW_MEMORY="128MiB", ZERROW_SPILL_DIR=str(tmp_path))
    assert out.split() == ["0"]
    assert list(tmp_path.iterdir()) == []


SETTINGS = """
import ray, zerrow_ray
from tests.ray.conftest import RAY_OPTIONS
from zerrow_ray.settings import announced
with zerrow_ray.init(memory="256MiB", eviction="lru", **RAY_OPTIONS):
    (node,) = zerrow_ray.stats()["nodes"].values()
    print(node["budget"], node["eviction"], announced().policy())
assert not ray.is_initialized()
for wrong in ({"eviction": "magic"}, {"memory": "much"}, {"memory": 0}):
    try:
        zerrow_ray.init(**wrong, **RAY_OPTIONS)
    except ValueError:
        pass
    assert not ray.is_initialized()
"""


def test_a_driver_says_what_stores_may_hold_and_what_goes() -> None:
    assert run_driver(SETTINGS).split() == [str(256 << 20), "lru", "lru"]
