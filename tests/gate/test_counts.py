"""What an operation takes is what is written down in `counts.json`, exactly.

A count that has become smaller is a reason to write the new one down, one that has become larger to
look for the cause: `make gate RECORD=1` writes all of them anew.
"""

import json
import os
import re
import shutil
import statistics
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from tests.gate.operations import ENVIRON, MARKS, REPEAT
from tests.gate.written_down import Counts, compare
from tests.helpers.stores import Store

COUNTS = Path(__file__).with_name("counts.json")
CALLS = ("sendto", "sendmsg", "mmap", "munmap", "mprotect", "madvise", "ftruncate", "fallocate")
CALLS += ("memfd_create", "openat", "read", "pread64", "pwrite64", "lseek", "ioctl", "dup", "fcntl")
MARK = re.compile(rf'"{MARKS}/(begin|end)/([^"]+)"')
CALL = re.compile(r"^(\d+)\s+(\w+)\(")


def run(store: Store, *prefix: str) -> Counts:
    """Run all operations in a process; returns its counts."""
    command = [*prefix, sys.executable, "-m", "tests.gate.operations", "--store", store.name]
    environ = os.environ | ENVIRON
    done = subprocess.run(command, env=environ, stdout=subprocess.PIPE, text=True, check=True)
    found: Counts = json.loads(done.stdout)
    return found


def system_calls(trace: str) -> Counts:
    """Return what the thread that did an operation has asked the kernel for, by name: what most
    times took.
    """
    found: dict[str, list[Counter[str]]] = defaultdict(list)
    under_way: tuple[str, Counter[str]] | None = None
    for line in trace.splitlines():
        call, mark = CALL.match(line), MARK.search(line)
        if mark and mark[1] == "begin" and call:
            under_way = (call[1], Counter())
        elif mark and under_way:
            found[mark[2]].append(under_way[1])
            under_way = None
        elif under_way and call and call[1] == under_way[0]:
            under_way[1][call[2]] += 1
    return {
        operation: {call: n for call in CALLS if (n := _usual(call, times[-REPEAT:]))}
        for operation, times in found.items()
    }


def _usual(call: str, times: list[Counter[str]]) -> int:
    return statistics.mode(counted[call] for counted in times)


def test_bytes_copied_round_trips_and_page_faults(store: Store) -> None:
    compare(run(store), COUNTS)


def test_system_calls(store: Store, tmp_path: Path) -> None:
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    trace = tmp_path / "trace"
    calls = ",".join([*CALLS, "newfstatat"])
    run(store, "strace", "-f", "-o", str(trace), "-e", f"trace={calls}")
    found = system_calls(trace.read_text())
    compare({operation: {"system_calls": counts} for operation, counts in found.items()}, COUNTS)


def test_a_trace_is_counted_by_operation_and_thread() -> None:
    trace = "".join(
        f'7 newfstatat(AT_FDCWD, "{MARKS}/begin/put", 0x1, 0) = -1 ENOENT\n'
        "7 sendto(3, ...) = 20\n8 sendto(3, ...) = 20\n7 mmap(NULL, <unfinished ...>\n"
        "7 <... mmap resumed>) = 0x7f\n"
        f'7 newfstatat(AT_FDCWD, "{MARKS}/end/put", 0x1, 0) = -1 ENOENT\n7 sendto(3, ...) = 20\n'
        for _ in range(REPEAT)
    )
    assert system_calls(trace) == {"put": {"sendto": 1, "mmap": 1}}


def test_another_count_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RECORD", raising=False)
    found: Counts = json.loads(COUNTS.read_text())
    compare(found, COUNTS)
    found["put"]["round_trips"] += 1
    with pytest.raises(AssertionError):
        compare(found, COUNTS)
