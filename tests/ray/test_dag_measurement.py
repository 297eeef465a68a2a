"""What steps report that they needed."""

from tests.helpers.python import run_python


def test_memory_that_was_kept_counts_as_allocated_again() -> None:
    run_python("""
import numpy as np, pyarrow as pa
from zerrow_ray.dag.measurement import measured
from zerrow_store import memory
memory.start()
MIB = 1 << 20

def step():
    temporary = np.ones(64 * MIB, np.uint8)
    return pa.array(temporary[: 16 * MIB]).cast(pa.uint16())

for _ in range(3):  # the first time in fresh memory, then in what was kept
    value, report = measured(step, 1)()
    assert report.new == 32 * MIB, report
    assert 96 * MIB <= report.allocated <= 120 * MIB, report
    assert report.peak >= report.new
    del value
""")
