"""Memory of a Ray session, from /proc: every page counted once."""

import contextlib
import threading
from pathlib import Path

import psutil


def session_processes() -> list[psutil.Process]:
    """Return this process, its descendants (Ray's daemons and workers) and the node stores.

    The stores are daemons of their own, found by the raylet that they watch.
    """
    mine = [psutil.Process(), *psutil.Process().children(recursive=True)]
    pids = {process.pid for process in mine}
    stores = []
    for process in psutil.process_iter(["cmdline"]):
        command = process.info["cmdline"] or []
        if "zerrow_store.node.server" in command and "--watch-pid" in command:
            watched = int(command[command.index("--watch-pid") + 1])
            if watched in pids and process.pid not in pids:
                stores.append(process)
    return mine + stores


def resident_bytes() -> int:
    """Return the session's proportional set size (PSS): shared pages count once."""
    total = 0
    for process in session_processes():
        # A process may end while it is looked at.
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1]) * 1024
    return total


class PeakMemory:
    """Samples the session's memory in a thread while the `with` block runs; `bytes` is the peak."""

    def __init__(self, interval: float = 0.1) -> None:
        self.bytes = 0
        self._interval = interval
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> "PeakMemory":
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join()
        self.bytes = max(self.bytes, resident_bytes())

    def _sample(self) -> None:
        while not self._stop.wait(self._interval):
            self.bytes = max(self.bytes, resident_bytes())
