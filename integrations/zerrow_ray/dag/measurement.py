"""The measurement of a step, in its worker, around the user's function."""

import contextlib
import functools
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray

from zerrow_ray.task_context import record_publications
from zerrow_store.arrow_data import ARROW_DATA
from zerrow_store.native import _native


@dataclass(frozen=True)
class Measurement:
    """One run of a step. Sizes are in bytes.

    Attributes
    ----------
    started, seconds
        When the function started, and how long it ran.
    result, new
        The size of the value, and how much of it was in no segment before.
    peak
        By how much the worker's memory grew at most, its inputs included.
    allocated
        By how much the use of the worker's arena grew at most, also in memory kept from earlier.
    pid
        The worker.
    node_id, objects
        The node whose store has the value, and the value's ids there. Ray serializes the value
        first, which fills in the ids.
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
    """Return a function that does the same, and returns a `Measurement` as its last value.

    Parameters
    ----------
    function
        The function of a task.
    returns
        The number of its results. With 0, its value is dropped, as Ray does.
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
        report = Measurement(started, seconds, result, new, peak, allocated, pid, node_id, objects)
        return (*values, report) if returns else report

    return run


def _results(value: Any, returns: int) -> list[Any]:
    if returns == 0:
        return []
    results = [value] if returns == 1 else list(value)
    if len(results) != returns:  # Ray's own text, which would count the measurement, too
        raise ValueError(f"Task returned {len(results)} objects, but num_returns={returns}.")
    return results


def _sizes(value: Any) -> tuple[int, int]:
    """Return the bytes of a value, and how many of them are new. Plain objects count nothing."""
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
    except (ValueError, MemoryError):  # it takes Ray's own path
        return value.nbytes, value.nbytes
    encoded.unpin()
    new = encoded.bytes_shared + encoded.bytes_copied
    return new + encoded.bytes_reshared, new


def _reset_peak() -> int:
    """Restart the kernel's peak of this process's memory; return its memory now, in bytes."""
    with contextlib.suppress(OSError):  # not permitted everywhere; then the peak is overstated
        Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {field}")
