"""A store that holds eight tables (the fixture `small`), and the tables."""

import pyarrow as pa
import pyarrow.compute as pc

BUDGET = 64 << 20
ROWS = 1 << 20
NBYTES = 8 * ROWS


def make(n: int) -> pa.Table:
    return pa.table({"x": pc.add(pa.array(range(1000)), n).take(pa.array([7] * ROWS))})
