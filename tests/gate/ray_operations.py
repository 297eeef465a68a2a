"""Runs each operation through Ray some times, and prints what one takes as a JSON object: bytes
copied by the store's clients, bytes written to plasma, and the requests of the driver and of the
worker that the node's store answers.

Ray has one node with one processor, so that one worker does every task. Everything is warm: each
operation is done some times before. What it has made is let go, and the store is as it was, before
the next one, so that the requests by which objects go are counted, too. Not counted is what Ray's
own threads have a part in, such as page faults and system calls, and what is sent together if it
comes together: the notices that holds have ended.
"""

import json
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray

import zerrow_ray
from benchmarks.plasma_compat import created_bytes
from tests.gate import ray_tasks as tasks
from tests.helpers.rays import RAY_OPTIONS
from tests.helpers.waiting import eventually

WARM, REPEAT = 2, 3
OPTIONS = RAY_OPTIONS | {"num_cpus": 1, "object_store_memory": 128 << 20}
OWN = "stats"
"""The kind of request by which this module looks at the store."""

Operation = Callable[[], Any]
"""Does it once. What it returns is let go."""


class Counts:
    """Running counts, and the number of objects that the store has when nothing is under way."""

    def __init__(self) -> None:
        self._trace = Path(os.environ[tasks.TRACE])
        self._objects = zerrow_ray.stats().total.objects

    def settle(self) -> None:
        """Wait until what was let go is gone."""
        eventually(
            lambda: zerrow_ray.stats().total.objects == self._objects, "the store is as it was"
        )

    def look(self) -> Counter[str]:
        """Return all counts; requests by process and kind."""
        lines = self._trace.read_text().splitlines()
        found = Counter(line for line in lines if line.split()[1] != OWN)
        found["bytes_copied"] = zerrow_ray.stats().total.bytes_copied
        found["bytes_in_plasma"] = created_bytes()
        return found


def operations() -> dict[str, Operation]:
    """Return the operations by name."""
    table, foreign = tasks.table(), tasks.foreign_table()
    ref = ray.put(table)

    def done(task: Any, *given: Any) -> Operation:
        return lambda: ray.get(task.remote(*given))

    return {
        "put": lambda: ray.put(table),
        "put, foreign memory": lambda: ray.put(foreign),
        "get": lambda: ray.get(ref),
        "get in a worker": done(tasks.get, [ref]),
        "put and get in a worker": done(tasks.put_and_get),
        "task, table returned": done(tasks.make),
        "task, foreign memory returned": done(tasks.make_foreign),
        "task, slice of its argument returned": done(tasks.cut, ref),
        "task, argument returned with a column more": done(tasks.add_column, ref),
        "task, table given and its slice returned": lambda: ray.get(tasks.cut.remote(table)),
        "stream of one item": lambda: [ray.get(item) for item in tasks.stream.remote(1)],
    }


def measured(name: str, operation: Operation, counts: Counts) -> dict[str, Any]:
    """Do an operation some times; return what one takes."""
    found = []
    for _ in range(WARM + REPEAT):
        before = counts.look()
        operation()
        counts.settle()
        found.append(counts.look() - before)
    times = found[WARM:]
    assert times == times[:1] * REPEAT, f"{name}: one time is not as the other: {times}"
    bytes_ = {each: times[0].pop(each, 0) for each in ("bytes_copied", "bytes_in_plasma")}
    return bytes_ | {"requests": dict(times[0])}


def main() -> None:
    with zerrow_ray.init(**OPTIONS):
        worker = ray.get(tasks.begin.remote())
        tasks.begin_trace("driver")
        every = operations()
        counts = Counts()
        found = {name: measured(name, each, counts) for name, each in every.items()}
        assert ray.get(tasks.pid.remote()) == worker, "there was another worker"
    print(json.dumps(found))


if __name__ == "__main__":
    main()
