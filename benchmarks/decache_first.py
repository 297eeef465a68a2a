"""A file's first read beside `pq.read_table`, and warm hits: the part of `benchmarks.decache` that
has to tell a few percent.

Each side is a process of its own, the plain one without any part of the store in it, and they
read in turn. Twice: in processes that read again and again, whose memory is warm (ours keeps what
it frees as long as the pauses are), and in a fresh process for each read, which has its memory from
the kernel. CPU time of the reading process is noted beside the clock's: others' work on the machine
disturbs it less.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

SIDES = ("plain", "zerrow")
WARM_READS = 20
FRESH_READS = 9
HITS = 50
KINDS = {"first read, memory warm": WARM_READS, "first read, fresh process": FRESH_READS}


class Side:
    """A process that reads when it is told."""

    def __init__(self, side: str, path: Path, store: str) -> None:
        command = [sys.executable, "-m", "benchmarks.decache_first", side, str(path), store]
        # Longer than all else in a round takes: what one read frees, the next one uses.
        settings = {**os.environ, "ZERROW_DECAY_MS": "30000"}
        self._process = subprocess.Popen(
            command, env=settings, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ask(self, what: str) -> Any:
        """Have it done; returns the answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(what + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        """End the process."""
        self._process.communicate()


def measure(path: Path) -> dict[str, Any]:
    """Return (seconds, CPU seconds, page faults) of each read, by kind and side, and of hits."""
    from zerrow_store.server.supervisor import Supervisor

    store = f"bench-{os.getpid()}"
    supervisor = Supervisor(store, budget=16 << 30, watch_pid=os.getpid())
    supervisor.start()
    try:
        warm, fresh = KINDS
        return {
            warm: _in_turn(lambda side: Side(side, path, store), WARM_READS, keep=True),
            fresh: _in_turn(lambda side: Side(side, path, store), FRESH_READS, keep=False),
            "warm hit": _hits(Side("zerrow", path, store)),
        }
    finally:
        supervisor.stop()


def _in_turn(start: Callable[[str], Side], reads: int, *, keep: bool) -> dict[str, Any]:
    answers: dict[str, Any] = {side: [] for side in SIDES}
    kept = {side: start(side) for side in SIDES} if keep else {}
    for i in range(-2 * keep, reads):
        for side in SIDES if i % 2 else reversed(SIDES):
            process = kept.get(side) or start(side)
            answer = process.ask("read")
            if i >= 0:
                answers[side].append(answer)
            if not keep:
                process.close()
    for process in kept.values():
        process.close()
    return answers


def _hits(process: Side) -> Any:
    process.ask("read")
    hits = [process.ask("hit") for _ in range(HITS + 5)]
    process.close()
    return hits[5:]


def report(results: dict[str, Any]) -> None:
    """Print medians and best of all."""
    header = ("", "", "median ms", "best ms", "CPU median", "CPU best", "page faults")
    print("{:<26}{:<8}{:>11}{:>9}{:>12}{:>10}{:>13}".format(*header))
    rows = [(kind, side, results[kind][side]) for kind in KINDS for side in SIDES]
    for kind, side, reads in [*rows, ("warm hit", "zerrow", results["warm hit"])]:
        seconds, cpu, faults = zip(*reads, strict=True)
        figures = [f(values) * 1e3 for values in (seconds, cpu) for f in (statistics.median, min)]
        text = "".join(f"{n:>{w}.1f}" for n, w in zip(figures, (11, 9, 12, 10), strict=True))
        print(f"{kind:<26}{side:<8}{text}{statistics.median(faults):>13.0f}")


def _serve(side: str, path: str, store: str) -> None:
    drop: Callable[[], Any]
    if side == "plain":
        read = pq.read_table
        drop = bool
    else:
        import zerrow_store

        client = zerrow_store.connect(store)
        drop = client.cache_drop

        def read(path: str, **options: Any) -> pa.Table:
            return zerrow_store.read_parquet(path, client=client, **options)

    read(path, columns=["l_linenumber"])  # loads what is loaded once
    for line in sys.stdin:
        if line.strip() == "read":
            drop()
            time.sleep(0.1)
        before, start = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
        table = read(path)
        seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF)
        assert table.num_columns > 0
        del table
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        print(json.dumps([seconds, cpu, after.ru_minflt - before.ru_minflt]), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("side", choices=SIDES)
    parser.add_argument("path")
    parser.add_argument("store")
    given = parser.parse_args()
    _serve(given.side, given.path, given.store)
