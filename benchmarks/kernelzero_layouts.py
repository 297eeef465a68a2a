"""How the buffers of real tables lie in memory when KernelZero is to move them.

Each table is made by a process whose Arrow memory is not captured, and published over the
stand-in for the device (tests/kernelzero/emulated_device.c), which writes down the calls.

    python -m benchmarks.kernelzero_layouts     # prints how many pieces each table is in
"""

import io
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

ROOT = Path(__file__).parent.parent
BUFFERS = 1000
_ROWS = 10_000  # of eight bytes each
_COLUMNS = [f"c{i}" for i in range(BUFFERS)]

Range = tuple[int, int]  # offset from the first, length


def added(rows: int, columns: int = BUFFERS) -> pa.Table:
    values = pa.array(np.arange(rows))
    return pa.table({name: pc.add(values, 1) for name in _COLUMNS[:columns]})


def cast() -> pa.Table:
    """Half of the columns are half as wide."""
    values = pa.array(np.arange(2 * _ROWS))
    types = (pa.int32(), pa.float64())
    return pa.table({name: pc.cast(values, types[i % 2]) for i, name in enumerate(_COLUMNS)})


def filtered() -> pa.Table:
    return added(2 * _ROWS).filter(np.random.default_rng(0).random(2 * _ROWS) < 0.7)


def taken() -> pa.Table:
    return added(2 * _ROWS).take(np.random.default_rng(0).permutation(2 * _ROWS)[:_ROWS])


def batches() -> pa.Table:
    """Twenty columns that came in fifty record batches."""
    return pa.Table.from_batches([added(_ROWS, 20).to_batches()[0] for _ in range(50)])


def strings() -> pa.Table:
    values = pa.array(np.arange(2 * _ROWS))
    make = lambda i: pc.cast(pc.add(values, i * 10**6), pa.string())  # noqa: E731
    return pa.table({name: make(i) for i, name in enumerate(_COLUMNS[: BUFFERS // 2])})


def csv() -> pa.Table:
    """Blocks of which each column has 80 KB."""
    file = io.BytesIO()
    pa.csv.write_csv(added(50 * _ROWS, 20), file)
    options = pa.csv.ReadOptions(block_size=len(file.getvalue()) // 50)
    return pa.csv.read_csv(io.BytesIO(file.getvalue()), read_options=options)


def parquet() -> pa.Table:
    file = pa.BufferOutputStream()
    pq.write_table(added(_ROWS), file, use_dictionary=False)
    return pq.read_table(pa.BufferReader(file.getvalue()))


TABLES: dict[str, Callable[[], pa.Table]] = {
    "add_64KiB": lambda: added(8192),
    "add_80KB": lambda: added(_ROWS),
    "cast": cast,
    "filter": filtered,
    "take": taken,
    "strings": strings,
    "record_batches": batches,
    "read_csv": csv,
    "read_parquet": parquet,
    "add_800KB": lambda: added(10 * _ROWS),
}


def publish(name: str) -> None:
    """In the process whose calls are written down."""
    from zerrow_store import memory
    from zerrow_store.native import _native

    memory.start()
    _native.encode(TABLES[name](), move=True)


def layouts(names: Iterable[str]) -> Iterator[tuple[str, list[list[Range]]]]:
    """Return the ranges of each call over a table's buffers: one for each file."""
    with tempfile.TemporaryDirectory() as folder:
        device, trace = Path(folder) / "device.so", Path(folder) / "trace"
        source = ROOT / "tests/kernelzero/emulated_device.c"
        options = ("-shared", "-fPIC", "-O1", f"-I{ROOT / 'kmod'}")
        subprocess.run(["cc", *options, "-o", device, source, "-ldl"], check=True)
        environment = {
            "LD_PRELOAD": str(device),
            "KERNELZERO_TRACE": str(trace),
            "ZERROW_KERNELZERO": "on",
            "ZERROW_CAPTURE_ARROW": "0",
        }
        for name in names:
            trace.unlink(missing_ok=True)
            code = f"from benchmarks import kernelzero_layouts as k; k.publish({name!r})"
            command = [sys.executable, "-c", code]
            subprocess.run(command, check=True, cwd=ROOT, env=os.environ | environment)
            yield name, _calls(trace.read_text())


def _calls(trace: str) -> list[list[Range]]:
    calls = [np.loadtxt(io.StringIO(call), np.int64, ndmin=2) for call in trace.split("\n\n")[:-1]]
    first = min(call[:, 0].min() for call in calls)
    return [[(int(at - first), int(length)) for at, length in call] for call in calls]


def pieces(ranges: list[Range]) -> int:
    """Return how many mappings the ranges need: without a gap, they are one."""
    return 1 + sum(at + length != following for (at, length), (following, _) in pairwise(ranges))


def main() -> None:
    print(f"{'':16}{'buffers':>8}{'bytes':>12}{'calls':>6}{'pieces':>8}{'sorted':>8}")
    for name, calls in layouts(TABLES):
        ranges = [each for call in calls for each in call]
        total = sum(length for _, length in ranges)
        print(
            f"{name:16}{len(ranges):8}{total:12}{len(calls):6}{sum(map(pieces, calls)):8}"
            f"{pieces(sorted(ranges)):8}"
        )


if __name__ == "__main__":
    main()
