"""The tasks of `ray_operations`, and the trace of what they and their driver ask the store for."""

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray

from zerrow_store.protocol import framing

TRACE = "ZERROW_GATE_TRACE"
"""The environment's name of a file, which gets a line for each request to the node's store."""
ROWS = 1 << 19


def begin_trace(where: str) -> None:
    """From now on, write down the requests of this process: `where`, and their kind."""
    descriptor = os.open(os.environ[TRACE], os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
    pack = framing.pack

    def tracing(kind: str, request_id: int, *rest: Any) -> bytes:
        if request_id:  # the store answers
            os.write(descriptor, f"{where} {kind}\n".encode())
        return pack(kind, request_id, *rest)

    framing.pack = tracing


def table(number: int = 0) -> pa.Table:
    """Two columns of 4 MiB that Arrow has allocated."""
    base = np.arange(ROWS)
    return pa.table({"x": pc.add(base, number), "y": pc.add(base, number + 1)})


def foreign_table() -> pa.Table:
    """A table in memory that no allocator of ours has given."""
    column = pa.Array.from_buffers(pa.int64(), ROWS, [None, pa.py_buffer(bytes(8 * ROWS))])
    return pa.table({"x": column})


@ray.remote
def begin() -> int:
    """Trace the worker; return its pid."""
    begin_trace("worker")
    return os.getpid()


@ray.remote
def pid() -> int:
    return os.getpid()


@ray.remote
def get(refs: list[ray.ObjectRef]) -> int:
    return len(ray.get(refs[0]))


@ray.remote
def put_and_get() -> int:
    return len(ray.get(ray.put(table())))


@ray.remote
def make() -> pa.Table:
    return table()


@ray.remote
def make_foreign() -> pa.Table:
    return foreign_table()


@ray.remote
def cut(given: pa.Table) -> pa.Table:
    return given.slice(10, ROWS // 2)


@ray.remote
def add_column(given: pa.Table) -> pa.Table:
    return given.append_column("z", pc.add(given["x"], 1))


@ray.remote
def stream(count: int) -> Iterator[pa.Table]:
    for number in range(count):
        yield table(number)
