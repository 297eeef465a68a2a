"""What a Ray session takes, from /proc: memory with every page counted once, processor time, page
faults.
"""

import contextlib
import os
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


class Work:
    """Processor seconds and page faults of the session since this was made.

    A process that ends counts as it was last looked at: Ray does not wait for its workers, so that
    nothing of theirs is added to it.
    """

    def __init__(self) -> None:
        self._before = _work()
        self._last = dict(self._before)

    def look(self) -> None:
        """Look at what all processes have done until now."""
        self._last |= _work()

    @property
    def cpu(self) -> float:
        return self._since(0) / os.sysconf("SC_CLK_TCK")

    @property
    def faults(self) -> int:
        return self._since(1)

    def _since(self, what: int) -> int:
        nothing = (0, 0)
        return sum(
            last[what] - self._before.get(pid, nothing)[what] for pid, last in self._last.items()
        )


def _work() -> dict[int, tuple[int, int]]:
    """Return clock ticks and page faults of each process by itself."""
    found = {}
    for process in session_processes():
        with contextlib.suppress(OSError):
            # Behind the command's name: state is the first, the minor and major faults are the 8th
            # and the 10th, user and system time the 12th and the 13th.
            text = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2]
            fields = list(map(int, text.split()[1:]))
            found[process.pid] = (fields[10] + fields[11], fields[6] + fields[8])
    return found


class PeakMemory:
    """Samples the session's memory in a thread while the `with` block runs; `bytes` is the peak.

    work: it looks at its processes as often.
    """

    def __init__(self, interval: float = 0.1, work: Work | None = None) -> None:
        self.bytes = 0
        self._work = work
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
            if self._work:
                self._work.look()
