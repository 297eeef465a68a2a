"""A single DAG under memory limits: its swap-ins. Runs in a guest of QEMU.

    python -m benchmarks.kernelzero_swap_guest BYTES ROUNDS SIDE...    # see kernelzero_swap.py

The writer makes a table of ten integer columns, puts it into a node store, and ends. Then the
reader gets the table, adds it up, and ends. Both are in one cgroup with the limit, as the DAG of
the paper is; the store's server is not. Nothing else in the guest is short of memory, so what the
kernel says of swap is the DAG's.

Both are forks of this process, which has loaded all code, and each side has run once, with a small
table, before anything is counted: the pages of files are charged to nobody in the cgroup. Prints a
JSON object for each side and round.
"""

import json
import os
import resource
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

import zerrow_store
from zerrow_store.server.supervisor import Supervisor

COPYING, MOVING, BORN_SHARED = "copying", "moving", "born-shared"
_CAPTURES = ("ZERROW_CAPTURE_ARROW", "ZERROW_CAPTURE_NUMPY")
ENVIRON = {
    COPYING: {**dict.fromkeys(_CAPTURES, "0"), "ZERROW_KERNELZERO": "off"},
    MOVING: {**dict.fromkeys(_CAPTURES, "0"), "ZERROW_KERNELZERO": "on"},
    BORN_SHARED: {**dict.fromkeys(_CAPTURES, "1"), "ZERROW_KERNELZERO": "off"},
}
"""By side, of both processes; they read it when they connect, after the fork."""

CGROUPS = Path("/sys/fs/cgroup")
TABLE = b"table"
COLUMNS = 10
OVERHEAD = 48 << 20
"""What a fork of Python changes of its memory, and what Arrow and the client allocate."""
LIMITS = {"generous": 4.0, "tight": 1.25, "tighter": 0.75}
"""In tables, beyond the overhead."""

Figures = dict[str, float]
"""swap_ins, swap_outs: pages, of the whole guest. major: faults of the process that had to wait for
the swap device. copied: bytes that the store's client has copied.
"""

Node = Callable[[str, int], dict[str, Figures]]
"""Of the DAG: what it does with the store of that name, and a table of so many rows."""


class Phase:
    """Counts what happens between its beginning and `end`, in this process and in the guest."""

    def __init__(self) -> None:
        self._before = _counters()

    def end(self) -> Figures:
        return {name: value - self._before[name] for name, value in _counters().items()}


def _counters() -> Figures:
    known = dict(line.split() for line in Path("/proc/vmstat").read_text().splitlines())
    return {
        "swap_ins": int(known["pswpin"]),
        "swap_outs": int(known["pswpout"]),
        "major": resource.getrusage(resource.RUSAGE_SELF).ru_majflt,
    }


def write(store: str, rows: int) -> dict[str, Figures]:
    """Make the table, and put it."""
    client = zerrow_store.connect(store)
    phase = Phase()
    base = pa.array(np.arange(rows))
    table = pa.table({f"c{i}": pc.add(base, i) for i in range(COLUMNS)})
    del base
    made = phase.end()
    copied, phase = client.stats().bytes_copied, Phase()
    client.put(table, object_id=TABLE)
    put = phase.end()
    return {"make": made, "put": put | {"copied": client.stats().bytes_copied - copied}}


def read(store: str, rows: int) -> dict[str, Figures]:
    """Add the table up; then delete it."""
    client = zerrow_store.connect(store)
    phase = Phase()
    table = client.get(TABLE)
    found = sum(pc.sum(column).as_py() for column in table.columns)
    figures = phase.end()
    assert found == COLUMNS * rows * (rows - 1) // 2 + rows * sum(range(COLUMNS)), found
    del table
    client.delete(TABLE)
    return {"read": figures}


def run(group: Path, node: Node, store: str, rows: int) -> dict[str, Figures]:
    """Run a node of the DAG in a process of its own, in a cgroup; return its figures."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            (group / "cgroup.procs").write_text(str(os.getpid()))
            os.write(writing, json.dumps(node(store, rows)).encode())
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        text = pipe.read()
    os.waitpid(pid, 0)
    if not text:
        sys.exit(f"{node.__name__} did not finish")
    found: dict[str, Figures] = json.loads(text)
    return found


def dag(store: str, limit: float, nbytes: int) -> dict[str, Figures]:
    """Run the DAG under a limit of so many tables."""
    rows = nbytes // 8 // COLUMNS
    group = CGROUPS / "dag"
    group.mkdir()
    (group / "memory.max").write_text(str(OVERHEAD + int(limit * nbytes)))
    phases = run(group, write, store, rows) | run(group, read, store, rows)
    peak = int((group / "memory.peak").read_text())
    group.rmdir()
    names = ("swap_ins", "swap_outs", "major", "copied")
    whole = {name: sum(each.get(name, 0) for each in phases.values()) for name in names}
    return {**phases, "whole": whole | {"peak": peak}}


def main() -> None:
    nbytes, rounds, sides = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
    store = Supervisor("dag", budget=4 * nbytes, watch_pid=os.getpid())
    store.start()
    for side in sides:
        os.environ.update(ENVIRON[side])
        dag("dag", max(LIMITS.values()), nbytes // 8)
    for number in range(rounds):
        for side in sides if number % 2 == 0 else sides[::-1]:
            os.environ.update(ENVIRON[side])
            points = {
                f"{limit}, {phase}": figures
                for limit, tables in LIMITS.items()
                for phase, figures in dag("dag", tables, nbytes).items()
            }
            print(json.dumps({"side": side, "points": points}), flush=True)
    store.stop()


if __name__ == "__main__":
    main()
