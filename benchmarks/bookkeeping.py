"""What a store's object table and evictor take of a processor, without sockets: microseconds for
each event, and milliseconds to decide. Run as `python -m benchmarks.bookkeeping`, it prints JSON.

It runs in a process of its own, which imports what the server does and collects garbage as that
one: Python's collector goes through all that there is, and Ray and pyarrow bring a lot.
"""

import json
import os
import selectors
import subprocess
import sys
import tempfile
import time
from collections import Counter
from types import SimpleNamespace
from typing import Any

from zerrow_store.policy import load_policy
from zerrow_store.protocol import events
from zerrow_store.server.core import Core
from zerrow_store.server.server import collect_young_garbage

_PAGE = 4096


def measure_apart() -> dict[str, float]:
    """Return what `measure` does in a process that has imported nothing else."""
    command = [sys.executable, "-m", "benchmarks.bookkeeping"]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    record: dict[str, float] = json.loads(done.stdout)
    return record


def measure(count: int = 100_000, chosen: int = 1000) -> dict[str, float]:
    """Return microseconds for each event (a decoded column put, held, released), and milliseconds
    to choose, and to choose and drop, `chosen` of `count` idle objects; and how many were dropped.
    """
    with tempfile.TemporaryDirectory(dir="/var/tmp") as directory:
        os.environ["ZERROW_SPILL_DIR"] = directory
        core = Core(2 * count * _PAGE, load_policy("adaptive"), selectors.DefaultSelector())
        start = time.process_time()
        _fill(core, count)
        event = (time.process_time() - start) / (3 * count)
        queue = core.idle.queue
        start = time.process_time()
        popped = [queue.pop() for _ in range(chosen)]
        decision = time.process_time() - start
        for candidate, _ in filter(None, popped):
            queue.add(candidate)
        start = time.process_time()
        # Of entries whose decoding is quicker than any disk: none is spilled.
        core.evictor._evict(chosen * _PAGE)
        carried_out = time.process_time() - start
    return {
        "objects": count,
        "event_us": event * 1e6,
        "decide_1000_ms": decision * 1e3,
        "evict_1000_ms": carried_out * 1e3,
        "evicted": count - len(core.state.table.objects),
    }


def _fill(core: Core, count: int) -> None:
    """Put, hold and release `count` objects of a page, each that of one column. Nobody is told."""
    segment, fd = b"s" * 16, os.memfd_create("bookkeeping")
    os.ftruncate(fd, (count + 1) * _PAGE)
    added = events.SegmentAdded(segment, (count + 1) * _PAGE, os.getpid(), 0)
    core.state.add_segment(added, fd)
    connection: Any = SimpleNamespace(holds=Counter())
    for n in range(count):
        object_id = n.to_bytes(16, "big")
        packed = (n * _PAGE).to_bytes(8, "little") + _PAGE.to_bytes(8, "little")
        put = object_id, [(segment, packed)], b"", False, None, (_PAGE, 0, 0), 0.0
        column = b"file", "path", ("", str(n)), [(0, 1)], 1e-9 * (n % 97), 0, 0.0
        core.state.change(events.ColumnAdded(events.ObjectAdded(*put), *column))
        core.lifetimes.entered(object_id)
        core.effects.take()
        core.lifetimes.take_hold(connection, object_id)
        core.lifetimes.release(object_id, 1)


if __name__ == "__main__":
    collect_young_garbage()
    json.dump(measure(), sys.stdout)
