"""Ten thousand calls in sandboxes, and what is left of them: nothing.

    python -m tests.nightly.sandbox_calls [calls]

Calls return tables by reference and plain values, fail, and leave processes and files behind;
some results are put into a store. Prints what this process, its sandboxes and the store hold
after the first calls and after the last, as the kernel has it, as JSON; exits 1 if it is more.
"""

import gc
import json
import os
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from tests.helpers.processes import descendants
from tests.helpers.sandboxes import groups, sandboxes
from tests.helpers.stores import Store
from zerrow_store import memory, sandbox
from zerrow_store.client.client import Client
from zerrow_store.errors import SandboxError
from zerrow_store.native import _native

CALLS = 10_000
_FIRST = 100
_WATCHDOG_SECONDS = 30

Figures = dict[str, int]


def _by_reference(table: pa.Table) -> pa.Table:
    return pa.table({"z": pc.add(table["x"], 1)})


def _plain(table: pa.Table) -> int:
    return int(table.num_rows)


def _fails(table: pa.Table) -> None:
    raise LookupError(str(table.num_rows))


def _leaves_things(table: pa.Table) -> int:
    with open("/tmp/left", "wb") as file:
        file.write(bytes(1 << 16))
    if os.fork() == 0:
        time.sleep(1000)
    return int(table.num_rows)


def call(number: int, table: pa.Table, client: Client) -> None:
    """Make call `number`; checks its result."""
    if number % 10 == 0:
        with pytest.raises(SandboxError, match=str(table.num_rows)):
            sandbox.run(_fails, table)
    elif number % 10 == 1:
        assert sandbox.run(_leaves_things, table) == table.num_rows
    elif number % 10 < 5:
        assert sandbox.run(_plain, table) == table.num_rows
    else:
        result = sandbox.run(_by_reference, table)
        assert result["z"][7].as_py() == table["x"][7].as_py() + 1
        if number % 10 == 5:
            client.delete(client.put(result))


def held(store: Store) -> Figures:
    """Return what is held now; memory in KiB, of the resident kind in `..._rss`."""
    inside = [zygote for started in sandboxes() for zygote in descendants(started)[:1]]
    return {
        "descriptors": len(os.listdir("/proc/self/fd")),
        "segments": len(_native.mapped_segments()),
        "mappings": len(Path("/proc/self/maps").read_text().splitlines()),
        "threads": len(os.listdir("/proc/self/task")),
        "processes": len(descendants(os.getpid())),
        "groups": len(groups()),
        "pinned": _native.arena_stats()["pinned"],
        "store_objects": store.connected().stats().objects,
        "store_bytes": store.memory(),
        "own_rss": _resident("self"),
        "zygotes_rss": max((_resident(pid) for pid in inside), default=0),
        "store_rss": _resident(store.server_pid()),
    }


def measure(calls: int) -> tuple[Figures, Figures, float]:
    """Return what is held after the first calls, and after `calls` more, and the seconds."""
    memory.start()
    column = pc.add(pa.array(np.arange(50_000)), 0)
    table = pa.table({"x": column})
    store = Store(f"calls-{uuid.uuid4().hex[:12]}", budget=1 << 30)
    try:
        client = store.connect()
        for number in range(_FIRST):
            call(number, table, client)
        before = _settled(lambda: held(store))
        start = time.monotonic()
        for number in range(calls):
            call(number, table, client)
        taken = time.monotonic() - start
        return before, _settled(lambda: held(store), before), taken
    finally:
        store.stop()


def leaked(before: Figures, after: Figures) -> Figures:
    """Return what is more than it was. Resident memory may differ by what allocators keep."""
    roomy = {"own_rss": 16 << 10, "zygotes_rss": 4 << 10, "store_rss": 16 << 10, "mappings": 40}
    return {
        name: after[name] - before[name]
        for name in before
        if after[name] > before[name] + roomy.get(name, 0)
    }


def _settled(look: Callable[[], Figures], least: Figures | None = None) -> Figures:
    """Look once what runs in the background has come to rest."""
    deadline = time.monotonic() + _WATCHDOG_SECONDS
    while True:
        gc.collect()
        time.sleep(0.5)
        figures = look()
        quiet = figures == look() if least is None else not leaked(least, figures)
        if quiet or time.monotonic() > deadline:
            return figures


def _resident(pid: Any) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0])


def main() -> int:
    calls = int(sys.argv[1]) if len(sys.argv) > 1 else CALLS
    before, after, taken = measure(calls)
    more = leaked(before, after)
    print(
        json.dumps(
            {
                "calls": calls,
                "seconds": round(taken, 1),
                "before": before,
                "after": after,
                "leaked": more,
            },
            indent=2,
        )
    )
    sandbox.close()
    return 1 if more else 0


if __name__ == "__main__":
    sys.exit(main())
