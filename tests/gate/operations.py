"""Runs each operation of a node store some times, in one process, and prints what one takes
as a JSON object: bytes copied, round trips to the store, and the least page faults.

Everything is warm: the operation is done some times before. Arenas are in small pages, whatever the
machine has, and the kernel module is not used. Before and after each operation the process asks for
a file of that name, which strace shows.
"""

import argparse
import gc
import json
import os
import resource
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

import zerrow_store
from zerrow_store.client.client import Client
from zerrow_store.protocol import framing

ENVIRON = {"ZERROW_HUGE_PAGES": "off", "ZERROW_KERNELZERO": "off"}
ROWS = 1 << 19
WARM, REPEAT = 5, 10
MARKS = Path("/zerrow-gate")
"""There is no such folder."""

Operation = Callable[[], Any]
"""Does it once. What it returns is let go, and is deleted if it is an object's id."""


class RoundTrips:
    """Counts the requests of this process that a store answers."""

    def __init__(self) -> None:
        self.count = 0
        self._pack = framing.pack
        framing.pack = self._counting

    def _counting(self, kind: str, request_id: int, *rest: Any) -> bytes:
        self.count += request_id != 0
        return self._pack(kind, request_id, *rest)


def table(number: int = 0) -> pa.Table:
    """Two columns of 4 MiB that Arrow has allocated."""
    base = np.arange(ROWS)
    return pa.table({"x": pc.add(base, number), "y": pc.add(base, number + 1)})


def numpy_table() -> pa.Table:
    return pa.table({"x": np.arange(ROWS), "y": np.arange(ROWS) + 1})


def foreign_table() -> pa.Table:
    """A table in memory that no allocator of ours has given."""
    column = pa.Array.from_buffers(pa.int64(), ROWS, [None, pa.py_buffer(bytes(8 * ROWS))])
    return pa.table({"x": column})


def operations(client: Client, folder: Path) -> dict[str, Callable[[], Operation]]:
    """Return, by name, what prepares an operation: it is called before each."""
    path = folder / "table.parquet"
    pq.write_table(table(), path, row_group_size=ROWS // 4)
    shared = client.get(client.put(table()))
    object_id = client.put(table())

    def put(make: Callable[[], pa.Table]) -> Callable[[], Operation]:
        def prepare() -> Operation:
            made = make()
            return lambda: client.put(made)

        return prepare

    def added() -> pa.Table:
        return shared.append_column("z", pc.add(shared["x"], 1))

    def read_object() -> int:
        return sum(pc.sum(column).as_py() for column in client.get(object_id).columns)

    return {
        "put": put(table),
        "put, NumPy-born": put(numpy_table),
        "put, foreign memory": put(foreign_table),
        "put of what was got": put(lambda: shared),
        "put of a slice": put(lambda: shared.slice(10, 1000)),
        "put with a column more": put(added),
        "get": lambda: lambda: client.get(object_id),
        "get and read": lambda: read_object,
        "read_parquet, warm": lambda: lambda: zerrow_store.read_parquet(path, client=client),
    }


def counts(
    client: Client, trips: RoundTrips, name: str, prepare: Callable[[], Operation]
) -> dict[str, int]:
    """Do an operation some times; returns what one takes."""
    faults, made, copied = [], set(), set()
    for number in range(WARM + REPEAT):
        operation = prepare()
        gc.collect()
        copied_before, trips_before = client.stats().bytes_copied, trips.count
        mark(name, "begin")
        faults_before = _faults()
        result = operation()
        faults_after = _faults()
        mark(name, "end")
        trips_after = trips.count
        if number >= WARM:
            faults.append(faults_after - faults_before)
            made.add(trips_after - trips_before)
            copied.add(client.stats().bytes_copied - copied_before)
        if isinstance(result, bytes):
            client.delete(result)
        del result, operation
    assert len(made) == len(copied) == 1, f"{name}: one time is not as the other: {made} {copied}"
    return {"bytes_copied": copied.pop(), "round_trips": made.pop(), "page_faults": min(faults)}


def mark(name: str, what: str) -> None:
    """Say in a trace of system calls where the process is."""
    os.path.exists(MARKS / what / name)


def _faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", required=True)
    client = zerrow_store.connect(parser.parse_args().store)
    trips = RoundTrips()
    with tempfile.TemporaryDirectory() as folder:
        found = {
            name: counts(client, trips, name, prepare)
            for name, prepare in operations(client, Path(folder)).items()
        }
    client.close()
    print(json.dumps(found))


if __name__ == "__main__":
    main()
