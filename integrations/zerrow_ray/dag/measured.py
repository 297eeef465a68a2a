"""Functions that say what they needed: they run in the worker, around the user's own."""

import contextlib
import functools
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import ray

from zerrow_ray.session import record_publications
from zerrow_store.native import _native

ARROW_DATA = (pa.Table, pa.RecordBatch, pa.ChunkedArray, pa.Array)


@dataclass(frozen=True)
class Measured:
    """One run of a step. Bytes: `result` of the value, of which `new` were not in anybody's
    segment before; `peak`, by which the worker's memory grew at most, what it read included, and
    `allocated`, by which its arena's part did, in memory that it had kept from earlier or not.

    node_id: whose store has the value. objects: the ids under which it does, filled in when Ray
    serializes the value, which it does before it serializes this.
    """

    started: float
    seconds: float
    result: int
    new: int
    peak: int
    allocated: int
    pid: int
    node_id: str
    objects: list[bytes]


def measured(function: Callable[..., Any], returns: int) -> Callable[..., Any]:
    """Return a function that does the same and returns one more value, a `Measured`.

    returns: how many results the function has; of none, its value is dropped, as Ray does.
    """

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        started = time.time()
        before, arena_before = _reset_peak(), _native.arena_reset_peak()
        clock = time.perf_counter()
        value = function(*args, **kwargs)
        seconds = time.perf_counter() - clock
        allocated = _native.arena_stats()["peak"] - arena_before
        values = _results(value, returns)
        sizes = [_sizes(each) for each in values]
        result, new = (sum(column) for column in zip(*sizes, strict=True)) if sizes else (0, 0)
        peak = max(_status("VmHWM") - before, new)
        allocated = max(0, allocated)
        node_id, objects = ray.get_runtime_context().get_node_id(), record_publications()
        pid = os.getpid()
        report = Measured(started, seconds, result, new, peak, allocated, pid, node_id, objects)
        return (*values, report) if returns else report

    return run


def _results(value: Any, returns: int) -> list[Any]:
    if returns == 0:
        return []
    results = [value] if returns == 1 else list(value)
    if len(results) != returns:  # as Ray says it, which would count the report, too
        raise ValueError(f"Task returned {len(results)} objects, but num_returns={returns}.")
    return results


def _sizes(value: Any) -> tuple[int, int]:
    """Bytes of a value, and how many of them are new; what is not made of arrays counts nothing."""
    if isinstance(value, ARROW_DATA):
        return _arrow_sizes(value)
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        sizes = [_sizes(item) for item in value]
        return sum(size for size, _ in sizes), sum(new for _, new in sizes)
    if hasattr(value, "memory_usage"):  # pandas
        nbytes = int(value.memory_usage(index=True).sum())
    elif hasattr(value, "estimated_size"):  # polars
        nbytes = int(value.estimated_size())
    else:
        nbytes = value.nbytes if isinstance(value, np.ndarray) else 0
    return nbytes, nbytes


def _arrow_sizes(value: Any) -> tuple[int, int]:
    try:
        encoded = _native.encode(value)
    except (ValueError, MemoryError):  # it goes Ray's own way
        return value.nbytes, value.nbytes
    _native.unpin(b"".join(encoded.own[i : i + 8] for i in range(0, len(encoded.own), 16)))
    new = encoded.bytes_shared + encoded.bytes_copied
    return new + encoded.bytes_reshared, new


def _reset_peak() -> int:
    """Let the kernel count this process's peak anew; returns what it holds now, in bytes."""
    with contextlib.suppress(OSError):  # not everywhere may one do that: then it only overstates
        Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {field}")
