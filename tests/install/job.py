"""A job for an environment that zerrow-store was installed into: run there as a script, without the
project's source. It fails if its table is copied, and beside other versions than those it is given.
"""

import argparse
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray

import zerrow_ray
import zerrow_store
from zerrow_store.native import _native

ROWS = 1 << 20
LOCAL = {
    "address": "local",
    "num_cpus": 2,
    "include_dashboard": False,
    "log_to_driver": False,
    "_node_ip_address": "127.0.0.1",
    "object_store_memory": 256 << 20,
}


@ray.remote
def doubled(table: pa.Table) -> pa.Table:
    return table.append_column("twice", pc.multiply(table["x"], 2))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for package in pa, ray, np:
        parser.add_argument(f"--{package.__name__}", default="", help="how its version begins")
    parser.add_argument("--installed", action="store_true", help="not from a source")
    parser.add_argument("--submitted", action="store_true", help="to a Ray that is there")
    given = parser.parse_args()
    for package in pa, ray, np:
        wanted = getattr(given, package.__name__)
        assert package.__version__.startswith(wanted), package.__version__
    if given.installed:
        assert "site-packages" in zerrow_store.__file__, zerrow_store.__file__

    zerrow_ray.init(**({} if given.submitted else LOCAL))
    numbers = pc.add(pa.array(np.arange(ROWS)), 1)
    out = ray.get(doubled.remote(ray.put(pa.table({"x": numbers}))))
    assert out.equals(pa.table({"x": numbers, "twice": pc.multiply(numbers, 2)}))
    # Both columns were stored once, with a validity bitmap or two; the first went on by reference.
    total, nbytes = zerrow_ray.stats().total, numbers.nbytes
    assert 2 * nbytes <= total.bytes_shared < 2.1 * nbytes, total
    assert nbytes <= total.bytes_reshared < 1.1 * nbytes, total
    assert total.bytes_copied == 0, total

    # The module for the one libarrow of the process.
    soname = f"{pa.__version__.split('.')[0]}00"
    mapped = [line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines()]
    libarrows = {Path(path).name for path in mapped if "/libarrow.so" in path}
    assert libarrows == {f"libarrow.so.{soname}"}, libarrows
    assert f"/libarrow_{soname}/" in _native.__file__, _native.__file__
    ray.shutdown()


if __name__ == "__main__":
    main()
