"""Benchmarks under a hard limit of memory. Needs root, and the memory controller of cgroup v1."""

import contextlib
import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_CGROUPS = Path("/sys/fs/cgroup/memory")


@contextlib.contextmanager
def _limited(limit: int) -> Iterator[Path]:
    """A memory cgroup with a hard limit in bytes, gone at the end."""
    group = _CGROUPS / f"zerrow-bench-{os.getpid()}"
    group.mkdir()
    try:
        (group / "memory.limit_in_bytes").write_text(str(limit))
        yield group
    finally:
        for _ in range(100):
            with contextlib.suppress(OSError):
                group.rmdir()
                break
            time.sleep(0.1)


def run_limited(command: list[str], limit: int, **environ: str) -> dict[str, Any]:
    """Run a command that prints a JSON object as its last line, all that it starts and their files'
    pages within `limit` bytes. Returns that object, with the exit status, the processes killed for
    want of memory, and the peak in bytes; without its fields if the command failed.
    """
    with _limited(limit) as group:
        done = subprocess.run(
            command,
            env={**os.environ, **environ},
            stdout=subprocess.PIPE,
            preexec_fn=lambda: (group / "cgroup.procs").write_text(str(os.getpid())),
        )
        oom = (group / "memory.oom_control").read_text().splitlines()
        peak = int((group / "memory.max_usage_in_bytes").read_text())
    record: dict[str, Any] = (
        json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else {}
    )
    kills = next(int(line.split()[1]) for line in oom if line.startswith("oom_kill "))
    return {**record, "exit": done.returncode, "oom_kills": kills, "peak": peak}
