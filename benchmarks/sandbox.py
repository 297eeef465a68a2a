"""What a sandbox costs: calls warm and cold, and inputs of different sizes.

Prints one JSON object, with what this machine is. Times in milliseconds: median and quartiles.
`spaced` calls leave a sandbox time to get ready for the next one; `in a row` each follows the one
before at once, so that sandboxes take turns. A cold call finds no sandbox at all.
"""

import argparse
import functools
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
from zerrow_store.sandbox.capabilities import limits


def nothing() -> int:
    return 1


def rows(table: pa.Table) -> int:
    return int(table.num_rows)


def table_of(length: int) -> pa.Table:
    return pa.table({"x": pc.add(pa.array(np.arange(length)), 0)})


def timed(
    call: Callable[[], Any], repeat: int, before: Callable[[], object] = lambda: None
) -> dict[str, float]:
    """Run `call` and return what it took; `before` is run ahead of each, and not timed."""
    taken = []
    for _ in range(repeat):
        before()
        start = time.perf_counter()
        call()
        taken.append((time.perf_counter() - start) * 1e3)
    low, middle, high = statistics.quantiles(taken, n=4)
    return {"median": round(middle, 2), "low": round(low, 2), "high": round(high, 2), "n": repeat}


def rest() -> None:
    time.sleep(0.1)


def end_all() -> None:
    """Leave no sandbox: an interpreter has to be started, and pyarrow imported."""
    sandbox.close()
    rest()


def _environment() -> dict[str, Any]:
    revision = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True)
    return {
        "revision": revision.stdout.strip(),
        "kernel": platform.release(),
        "pyarrow": pa.__version__,
        "cpus": os.cpu_count(),
        "limits": limits(),
        "load": os.getloadavg()[0],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=30)
    parser.add_argument("--large", type=int, default=1 << 30, help="bytes of the large input")
    options = parser.parse_args()
    memory.start()
    sandbox.run(nothing)
    results: dict[str, Any] = {
        "cold": timed(lambda: sandbox.run(nothing), max(4, options.repeat // 4), end_all)
    }
    for what, function, argument in (
        ("", nothing, ()),
        (", 400 kB returned", table_of, (50_000,)),
    ):
        for _ in range(10):  # as many sandboxes as take turns, and all of them warmed up
            sandbox.run(function, *argument)
        time.sleep(3)
        call = functools.partial(sandbox.run, function, *argument)
        results[f"warm, spaced{what}"] = timed(call, options.repeat, rest)
        results[f"warm, in a row{what}"] = timed(call, options.repeat * 5)
    for name, size in (("small", 1 << 20), ("large", options.large)):
        table = table_of(size // 8)
        before = sandbox.stats().bytes_copied
        start = time.perf_counter()
        isolated = sandbox.run(lambda t: t, table)
        results[f"{name}: first call, which copies"] = round((time.perf_counter() - start) * 1e3, 1)
        copied = sandbox.stats().bytes_copied
        for what, given in (("copied before", table), ("file of its own", isolated)):
            results[f"{name}: {what}"] = timed(
                lambda given=given: sandbox.run(rows, given),  # type: ignore[misc]
                options.repeat,
                rest,
            )
        results[f"{name}: bytes copied by the first call"] = copied - before
        results[f"{name}: bytes copied after"] = sandbox.stats().bytes_copied - copied
    print(json.dumps({**_environment(), "milliseconds": results}, indent=2))


if __name__ == "__main__":
    main()
