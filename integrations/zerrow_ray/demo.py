"""A demonstration, `python -m zerrow_ray.demo`: ten tasks, each of which adds a column to a table.

It starts a Ray of its own on this machine, and compares the bytes stored with those that Ray's own
store would hold, which stores each result as a whole.
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray

import zerrow_ray
from zerrow_store.sizes import format_size

_ROWS = 4 << 20
_TASKS = 10


@ray.remote  # type: ignore[untyped-decorator]
def _with_another_column(table: pa.Table) -> pa.Table:
    last = table.column(table.num_columns - 1)
    return table.append_column(f"c{table.num_columns}", pc.add(last, 1))


def main() -> None:
    """Run the tasks, and print how the tables are stored."""
    with zerrow_ray.init(address="local", include_dashboard=False, log_to_driver=False):
        refs = [ray.put(pa.table({"c0": np.arange(_ROWS)}))]
        for _ in range(_TASKS):
            refs.append(_with_another_column.remote(refs[-1]))
        tables = ray.get(refs)
        for n, column in enumerate(tables[-1].columns):
            assert column[0].as_py() == n, "a table is not what it should be"
        plain = sum(table.nbytes for table in tables)
        total = zerrow_ray.stats().total
    print(f"{len(tables)} tables of 1 to {len(tables)} columns: {format_size(plain)} as they are")
    print(f"stored: {format_size(total.bytes_stored)}, each column once")
    print(f"copied: {format_size(total.bytes_copied)}")


if __name__ == "__main__":
    main()
