"""What the kernel's work for memory costs: in 4 KiB pages, in huge pages, and for ordinary memory.

Each step runs in a fresh process, the sides alternately. Prints one JSON object: median and
quartiles of seconds, of processor and of system time, of page faults and of resident memory;
milliseconds and MiB. "small" and "huge" are the plugin's arenas; "ordinary" is memory of the
default allocators, which others can have as a copy only.

    fill       allocate and fill fresh memory
    put        publish a table, born in Arrow or in NumPy; "again": once more, unchanged
    read       have a table that another process has published, and read it; ordinary: a copy of it
    let go     unmap, or free, what was read
    parquet    read a file for the first time, and its columns; ordinary: plain pyarrow
    idle       what a process has resident that has worked, and rests

Puts are also measured for each of --put-sizes: they are to be independent of the size.

A virtual machine may give free memory back to its host, and gets it anew only slowly. So a process
touches as much as a step is about to take, and frees it, right before the step.
"""

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from mmap import MADV_HUGEPAGE, MAP_ANONYMOUS, MAP_PRIVATE, mmap
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from zerrow_store.client.client import Client
from zerrow_store.connection import connect
from zerrow_store.decache import read_parquet
from zerrow_store.memory.buffers import allocate
from zerrow_store.native import _native
from zerrow_store.server.supervisor import Supervisor
from zerrow_store.sizes import parse_size

SIDES = {"small": "off", "huge": "on", "ordinary": "off"}
STEPS = ["fill", "put arrow", "put numpy", "read", "parquet", "idle"]
PUT_SIZES = "8MiB,64MiB,512MiB,4GiB"
MIB = 1 << 20

Figures = dict[str, dict[str, float]]


@contextmanager
def measured(figures: Figures, name: str) -> Iterator[None]:
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF)
    yield
    after = resource.getrusage(resource.RUSAGE_SELF)
    figures[name] = {
        "ms": 1e3 * (time.perf_counter() - start),
        "cpu_ms": 1e3 * (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime),
        "system_ms": 1e3 * (after.ru_stime - before.ru_stime),
        "faults": after.ru_minflt - before.ru_minflt,
    }


def touch(nbytes: int) -> None:
    """Have so much memory back from the host, and free it."""
    memory = mmap(-1, nbytes, MAP_PRIVATE | MAP_ANONYMOUS)
    memory.madvise(MADV_HUGEPAGE)
    for start in range(0, nbytes, MIB):
        memory[start : start + MIB] = b"1" * MIB
    memory.close()


def born(where: str, nbytes: int) -> pa.Table:
    array = np.ones(nbytes // 8)
    return pa.table({"x": pc.add(array, 1) if where == "arrow" else array})


def warm_up(client: Client) -> None:
    """Do what a process does once: imports, mapping its own arena."""
    total(client.get(client.put(pa.table({"x": pa.array(np.ones(10_000))}))))


def total(table: pa.Table) -> float:
    return float(table["x"].chunk(0).to_numpy().sum())


# --- the steps, each in a process of its own ---


def fill(nbytes: int, figures: Figures) -> None:
    touch(nbytes)
    with measured(figures, "fill"):
        buffer = allocate(nbytes)
        np.frombuffer(buffer, np.uint8)[:] = 1


def put(client: Client, where: str, nbytes: int, figures: Figures) -> None:
    warm_up(client)
    touch(2 * nbytes)
    table = born(where, nbytes)
    with measured(figures, f"put {where}"):
        client.put(table)
    with measured(figures, f"put {where} again"):
        client.put(table)


def read(client: Client, object_id: bytes, figures: Figures) -> None:
    warm_up(client)
    before = set(_native.mapped_segments())
    with measured(figures, "read"):
        total(client.get(object_id))
    (segment,) = set(_native.mapped_segments()) - before
    gone = False
    while not gone:  # the view's end is seen by a thread
        with measured(figures, "let go"):
            gone = _native.unmap_segment(segment)


def read_ordinary(nbytes: int, figures: Figures) -> None:
    table = born("arrow", nbytes)
    touch(nbytes)
    with measured(figures, "read"):
        copy = pa.table({"x": table["x"].chunk(0).to_numpy().copy()})
        total(copy)
    with measured(figures, "let go"):
        del copy


def read_file(client: Client | None, path: str, nbytes: int, figures: Figures) -> None:
    """Read a file that nobody has read, through DeCache if there is a store."""
    touch(2 * nbytes)
    with measured(figures, "parquet"):
        table = pq.read_table(path) if client is None else read_parquet(path, client=client)
        for column in table.columns:
            pc.sum(column)


def rest(client: Client | None, nbytes: int, figures: Figures) -> None:
    """Work a little, then wait until freed memory has gone back."""
    for size in (nbytes, 3 * MIB, 40_000, 100):
        table = born("numpy", size)
        if client is not None:
            client.delete(client.put(table))
    del table
    time.sleep(18)
    with open("/proc/self/smaps_rollup") as file:
        lines = dict(line.split(":", 1) for line in file if ":" in line)
    figures["idle"] = {"pss_mib": int(lines["Pss"].split()[0]) / 1024}
    if client is not None:
        figures["idle"]["arena_mib"] = os.fstat(_native.arena_segment()[1]).st_blocks * 512 / MIB


def run_step(options: argparse.Namespace) -> Figures:
    figures: Figures = {}
    what, _, where = options.step.partition(" ")
    client = None if options.side == "ordinary" else connect(options.store)
    if what == "fill":
        fill(options.nbytes, figures)
    elif what == "parquet":
        read_file(client, options.object, options.nbytes, figures)
    elif what == "idle":
        rest(client, options.nbytes, figures)
    elif what == "read" and client is None:
        read_ordinary(options.nbytes, figures)
    elif client is not None and what == "read":
        read(client, bytes.fromhex(options.object), figures)
    elif client is not None:
        put(client, where, options.nbytes, figures)
    return figures


def give(options: argparse.Namespace) -> None:
    """Publish a table for a reader, and keep it until this process's input ends."""
    client = connect(options.store)
    touch(2 * options.nbytes)
    print(client.put(born("arrow", options.nbytes)).hex(), flush=True)
    sys.stdin.read()


# --- all of them ---


def command(store: str, step: str, side: str, nbytes: int, *more: str) -> list[str]:
    arguments = ["--store", store, "--step", step, "--side", side, "--nbytes", str(nbytes)]
    return [sys.executable, "-m", "benchmarks.huge_pages", *arguments, *more]


@contextmanager
def fresh_store(nbytes: int) -> Iterator[str]:
    """A store that holds nothing yet: what a step leaves must not be in memory in the next."""
    name = f"huge-pages-{uuid.uuid4().hex[:8]}"
    supervisor = Supervisor(name, budget=8 * nbytes)
    supervisor.start()
    try:
        yield name
    finally:
        supervisor.stop()


def run_in_process(
    store: str, step: str, side: str, nbytes: int, parquet: str | None = None
) -> Figures:
    environ = os.environ | {"ZERROW_HUGE_PAGES": SIDES[side]}
    giver, more = None, []
    if step == "read" and side != "ordinary":
        giver = subprocess.Popen(
            command(store, "give", side, nbytes),
            env=environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert giver.stdout is not None
        more = ["--object", giver.stdout.readline().strip()]
    with tempfile.NamedTemporaryFile() as file:
        if parquet is not None:  # a copy is a file that nobody has read
            shutil.copy(parquet, file.name)
            more = ["--object", file.name]
        asked = command(store, step, side, nbytes, *more)
        done = subprocess.run(asked, env=environ, stdout=subprocess.PIPE, check=True)
    if giver is not None:
        giver.communicate()
    figures: Figures = json.loads(done.stdout)
    return figures


def summary(runs: list[dict[str, float]]) -> dict[str, Any]:
    """Return the median of each figure, and its quartiles."""
    found: dict[str, Any] = {}
    for key in runs[0]:
        values = [run[key] for run in runs]
        low, middle, high = (
            statistics.quantiles(values, method="inclusive") if runs[1:] else values * 3
        )
        found[key] = round(middle, 2)
        found[f"{key}_quartiles"] = [round(low, 2), round(high, 2)]
    return found


def compare(steps: list[str], nbytes: int, repeat: int) -> dict[str, Any]:
    """Run steps on all sides, alternately."""
    runs: defaultdict[tuple[str, str], list[dict[str, float]]] = defaultdict(list)
    with tempfile.NamedTemporaryFile(suffix=".parquet") as file:
        if "parquet" in steps:
            columns = np.random.default_rng(0).integers(0, 1 << 20, (4, nbytes // 32))
            pq.write_table(pa.table(list(columns), names=list("abcd")), file.name)
        for step in steps:
            path = file.name if step == "parquet" else None
            sides = [side for side in SIDES if side != "ordinary" or not step.startswith("put")]
            for _ in range(repeat):
                for side in sides:
                    with fresh_store(nbytes) as store:
                        found = run_in_process(store, step, side, nbytes, path)
                    for what, figures in found.items():
                        runs[what, side].append(figures)
    results: dict[str, Any] = {}
    for (what, side), each in runs.items():
        results.setdefault(what, {})[side] = summary(each)
    return results


def compare_all(nbytes: int, put_sizes: list[int], repeat: int) -> dict[str, Any]:
    puts = [step for step in STEPS if step.startswith("put")]
    results = compare(STEPS, nbytes, repeat)
    results["puts"] = {size: compare(puts, size, repeat) for size in put_sizes}
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=9)
    parser.add_argument("--nbytes", type=int, default=1 << 30)
    parser.add_argument("--put-sizes", default=PUT_SIZES)
    parser.add_argument("--store", help=argparse.SUPPRESS)
    parser.add_argument("--step", help=argparse.SUPPRESS)
    parser.add_argument("--side", help=argparse.SUPPRESS)
    parser.add_argument("--object", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step == "give":
        give(options)
    elif options.step is not None:
        print(json.dumps(run_step(options)))
    else:
        from benchmarks.hop import environment

        put_sizes = [parse_size(size) for size in options.put_sizes.split(",")]
        results = compare_all(options.nbytes, put_sizes, options.repeat)
        print(json.dumps({**environment(), "bytes": options.nbytes, "results": results}, indent=2))


if __name__ == "__main__":
    main()
