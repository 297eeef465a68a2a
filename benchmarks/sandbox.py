"""What a sandbox costs: calls warm and cold, and inputs of different sizes.

Prints one JSON object. Times in milliseconds: median and quartiles. `spaced` calls leave the
sandbox time to prepare the next one; `in a row` they wait for it.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from zerrow_store import memory, sandbox


def nothing() -> int:
    return 1


def rows(table: pa.Table) -> int:
    return int(table.num_rows)


def timed(call: Callable[[], Any], repeat: int, gap: float = 0.0) -> dict[str, float]:
    """Run `call` and return what it took."""
    taken = []
    for _ in range(repeat):
        time.sleep(gap)
        start = time.perf_counter()
        call()
        taken.append((time.perf_counter() - start) * 1e3)
    low, middle, high = statistics.quantiles(taken, n=4)
    return {"median": round(middle, 2), "low": round(low, 2), "high": round(high, 2), "n": repeat}


def cold() -> None:
    """A call for which nothing is ready: the interpreter is started, and pyarrow imported."""
    sandbox.close()
    sandbox.run(nothing)


def _environment() -> dict[str, Any]:
    revision = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True)
    return {
        "revision": revision.stdout.strip(),
        "kernel": platform.release(),
        "pyarrow": pa.__version__,
        "load": os.getloadavg()[0],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=30)
    parser.add_argument("--large", type=int, default=1 << 30, help="bytes of the large input")
    options = parser.parse_args()
    memory.start()
    results: dict[str, Any] = {"cold": timed(cold, max(4, options.repeat // 4))}
    sandbox.run(nothing)
    results["warm, spaced"] = timed(lambda: sandbox.run(nothing), options.repeat, 0.1)
    results["warm, in a row"] = timed(lambda: sandbox.run(nothing), options.repeat)
    for name, size in (("small", 1 << 20), ("large", options.large)):
        table = pa.table({"x": pc.add(pa.array(np.arange(size // 8)), 0)})
        before = sandbox.stats().bytes_copied
        start = time.perf_counter()
        isolated = sandbox.run(lambda t: t, table)
        results[f"{name}: first call, which copies"] = round((time.perf_counter() - start) * 1e3, 1)
        copied = sandbox.stats().bytes_copied
        for what, given in (("copied before", table), ("file of its own", isolated)):
            results[f"{name}: {what}"] = timed(
                lambda given=given: sandbox.run(rows, given),  # type: ignore[misc]
                options.repeat,
                0.1,
            )
        results[f"{name}: bytes copied by the first call"] = copied - before
        results[f"{name}: bytes copied after"] = sandbox.stats().bytes_copied - copied
    print(json.dumps({**_environment(), "milliseconds": results}, indent=2))


if __name__ == "__main__":
    main()
