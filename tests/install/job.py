"""A job for an environment that zerrow-store was installed into: run there as a script, without the
project's source. It prints as JSON what it ran with, and what became of its table.
"""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray

import zerrow_ray
import zerrow_store
from zerrow_store.native import _native

ROWS = 1 << 20


@ray.remote
def doubled(table: pa.Table) -> pa.Table:
    return table.append_column("twice", pc.multiply(table["x"], 2))


def main() -> None:
    zerrow_ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        _node_ip_address="127.0.0.1",
        object_store_memory=256 << 20,
    )
    numbers = pc.add(pa.array(np.arange(ROWS)), 1)
    out = ray.get(doubled.remote(ray.put(pa.table({"x": numbers}))))
    assert out.equals(pa.table({"x": numbers, "twice": pc.multiply(numbers, 2)}))
    total = zerrow_ray.stats().total
    mapped = [line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines()]
    said = {
        "pyarrow": pa.__version__,
        "ray": ray.__version__,
        "numpy": np.__version__,
        "zerrow_store": zerrow_store.__version__,
        "package": zerrow_store.__file__,
        "module": _native.__file__,
        "libarrows": sorted({Path(path).name for path in mapped if "/libarrow.so" in path}),
        "nbytes": numbers.nbytes,
        "shared": total.bytes_shared,
        "reshared": total.bytes_reshared,
        "copied": total.bytes_copied,
    }
    print(json.dumps(said))
    ray.shutdown()


if __name__ == "__main__":
    main()
