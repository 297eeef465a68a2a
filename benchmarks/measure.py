"""What a Ray session takes, from /proc: memory with every page counted once, processor time, page
faults.
"""

import contextlib
import threading
from pathlib import Path

import psutil


def session_processes() -> list[psutil.Process]:
    """Return this process, its descendants (Ray's daemons and workers), the node stores and their
    transfer agents.

    These are daemons of their own: stores are found by the raylet that they watch, agents by their
    store.
    """
    mine = [psutil.Process(), *psutil.Process().children(recursive=True)]
    pids = {process.pid for process in mine}
    others = [process for process in psutil.process_iter(["cmdline"]) if process.pid not in pids]
    stores = [process for process in others if int(_option(process, "--watch-pid") or 0) in pids]
    names = {_option(process, "--name") for process in stores} - {None}
    return mine + stores + [process for process in others if _option(process, "--store") in names]


def _option(process: psutil.Process, name: str) -> str | None:
    """Return what a process of a store was given on its command line."""
    command = process.info["cmdline"] or []
    if not any(word.startswith("zerrow_store.") for word in command) or name not in command:
        return None
    return str(command[command.index(name) + 1])


def resident_bytes() -> int:
    """Return the session's proportional set size (PSS): shared pages count once."""
    return sum(map(proportional_bytes, session_processes()))


def proportional_bytes(process: psutil.Process) -> int:
    """Return a process's proportional set size (PSS); 0 if it has ended."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0


def cpu_seconds() -> float:
    """Processor time of the whole session, of what has ended since its start included."""
    total = 0.0
    for process in session_processes():
        with contextlib.suppress(psutil.Error):
            times = process.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
    return total


def page_faults() -> int:
    """Page faults of the whole session, of what has ended since its start included."""
    total = 0
    for process in session_processes():
        with contextlib.suppress(OSError):
            # Behind the command's name: state is the first, the minor and major faults of the
            # process and of its children are the 8th to the 11th.
            fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
            total += sum(map(int, fields[7:11]))
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
