"""What it takes to have a table of the store as a pandas frame or as writable arrays: milliseconds,
and memory that the reader then has for itself. Run as `python -m benchmarks.conversions`, it
prints JSON.

Each conversion runs in a new process, which has the table mapped and has read it once, so that the
page faults of the first reading are not counted. Conversions take turns.
"""

import json
import platform
import statistics
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

import zerrow_store
from zerrow_store.server.supervisor import Supervisor

_ROWS = 1 << 23
_ROUNDS = 5


def tables() -> dict[str, pa.Table]:
    """Return a table of 512 MiB of numbers, in one chunk and in 16, and one of strings."""
    numbers = pa.table(
        {f"c{i}": pc.add(pa.array(np.arange(_ROWS)), i).cast(pa.float64()) for i in range(8)}
    )
    chunked = pa.concat_tables([numbers.slice(i * _ROWS // 16, _ROWS // 16) for i in range(16)])
    words = pa.array(["some", "words", None, "of", "several letters"])
    strings = words.take(pa.array(np.arange(_ROWS, dtype=np.int32) % 5))
    return {
        "numbers": numbers,
        "numbers in 16 chunks": chunked,
        "strings": pa.table({f"s{i}": strings for i in range(2)}),
    }


def conversions(store: str) -> dict[str, Callable[[pa.Table], Any]]:
    """Return what is measured, by name."""
    import pandas as pd

    from zerrow_store.client.copy_on_write import writable

    def arrays(table: pa.Table) -> Any:
        columns = [c.combine_chunks() if c.num_chunks > 1 else c.chunk(0) for c in table.columns]
        return writable([column.buffers()[1] for column in columns], store)

    return {
        "to_pandas()": lambda table: table.to_pandas(),
        "to_pandas(split_blocks=True)": lambda table: table.to_pandas(split_blocks=True),
        "to_pandas(types_mapper=ArrowDtype)": lambda t: t.to_pandas(types_mapper=pd.ArrowDtype),
        "writable arrays, as for torch": arrays,
    }


def convert(store: str, object_id: str, name: str) -> dict[str, float]:
    """Convert a table in this process."""
    table = zerrow_store.connect(store).get(bytes.fromhex(object_id))
    action = conversions(store)[name]
    for column in table.columns:
        pc.count(column, mode="only_null")
        for chunk in column.chunks:
            for buffer in filter(None, chunk.buffers()):
                np.frombuffer(buffer, np.uint8)[::4096].sum()
    action(table.slice(0, 10))  # what is imported at first use
    before = _private_bytes()
    start = time.perf_counter()
    result = action(table)
    seconds = time.perf_counter() - start
    private = _private_bytes() - before
    del result
    return {"seconds": seconds, "private": private}


def _private_bytes() -> int:
    with open("/proc/self/smaps_rollup") as file:
        lines = dict(line.split(":") for line in list(file)[1:])
    return int(lines["Private_Dirty"].split()[0]) * 1024


def main() -> None:
    if len(sys.argv) > 1:
        print(json.dumps(convert(*sys.argv[1:])))
        return
    name = f"conversions-{uuid.uuid4().hex[:8]}"
    supervisor = Supervisor(name, budget=4 << 30)
    supervisor.start()
    try:
        client = zerrow_store.connect(name)
        print(json.dumps({"kernel": platform.release(), "pyarrow": pa.__version__}))
        for what, table in tables().items():
            object_id = client.put(table).hex()
            found: dict[str, list[dict[str, float]]] = {}
            for _ in range(_ROUNDS):
                for conversion in conversions(name):
                    if what == "strings" and "torch" in conversion:
                        continue
                    command = [sys.executable, "-m", __spec__.name, name, object_id, conversion]
                    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
                    found.setdefault(conversion, []).append(json.loads(done.stdout))
            for conversion, measured in found.items():
                times = sorted(each["seconds"] * 1000 for each in measured)
                record = {
                    "table": what,
                    "MiB": table.nbytes >> 20,
                    "conversion": conversion,
                    "n": len(times),
                    "median_ms": round(statistics.median(times), 2),
                    "spread_ms": [round(times[0], 2), round(times[-1], 2)],
                    "private_MiB": round(
                        statistics.median(each["private"] for each in measured) / (1 << 20)
                    ),
                }
                print(json.dumps(record), flush=True)
            client.delete(bytes.fromhex(object_id))
        client.close()
    finally:
        supervisor.stop()


if __name__ == "__main__":
    main()
