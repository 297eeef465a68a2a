"""The attempts of test_escapes.py where nothing is in their way: there they succeed.

Each runs in a forked child of its own. What would take the machine down is run with a limit that is
large enough: then the limit, and nothing else, is what stops it elsewhere.
"""

import json
import os
import socket
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from tests.helpers import escapes
from tests.helpers.capabilities import needs_sandboxes
from zerrow_store import sandbox


def _unconfined(function: Callable[[], Any]) -> Any:
    """Run in a forked child; returns what it returns, by JSON."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(writing, json.dumps(function()).encode())
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading, "rb") as file:
        answer = file.read()
    os.waitpid(pid, 0)
    return json.loads(answer)


def _table() -> pa.Table:
    return pa.table({"x": pc.add(pa.array(np.arange(50_000)), 0)})


@pytest.mark.parametrize(
    "write",
    [
        escapes.write_by_mprotect,
        escapes.write_by_process_memory,
        escapes.write_by_process_vm,
        escapes.ptrace,
    ],
)
def test_writing(write: Any) -> None:
    assert _unconfined(lambda: write(_table())) == "done"


def test_reopening_a_file_that_is_not_sealed() -> None:
    def attempt() -> bool:
        fd = os.memfd_create("zerrow-input")
        os.ftruncate(fd, 4096)
        reading = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY)
        os.close(fd)
        done = "done" in escapes.reopen_all(pa.table({}))
        return done and os.pread(reading, 8, 0) == bytes(8)

    assert _unconfined(attempt)


def test_seeing_another_table() -> None:
    """In the arena of a process, all of its tables are seen."""
    marker = os.urandom(12).hex().encode()
    hidden = escapes.marked(marker)
    assert escapes.memory_has(marker[::-1], writable=True)
    assert hidden.num_rows == 20_000


def test_home_environment_and_processes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    monkeypatch.setenv("A_SECRET", "x")
    monkeypatch.setenv("HOME", str(tmp_path))
    seen = _unconfined(
        lambda: [
            os.listdir(os.path.expanduser("~")),
            "A_SECRET" in os.environ,
            len([pid for pid in os.listdir("/proc") if pid.isdigit()]) > 2,
            escapes.attempt((tmp_path / "file").write_text, "x"),
            escapes.attempt(os.kill, os.getppid(), 0),
        ]
    )
    assert seen == [["secret"], True, True, "done", "done"]


def test_sockets() -> None:
    assert _unconfined(lambda: escapes.attempt(socket.socket, 16, socket.SOCK_RAW, 0)) == "done"


@needs_sandboxes
def test_limits_are_what_stops_them() -> None:
    def processes(count: int) -> int:
        return sum(os.fork() > 0 or os._exit(0) for _ in range(count))

    def memory(size: int) -> int:
        return len(bytearray(os.urandom(1 << 20) * (size >> 20)))

    def files(size: int) -> int:
        return Path("/tmp/file").write_bytes(bytes(size))

    assert sandbox.run(processes, 25, processes=64) == 25
    assert sandbox.run(memory, 200 << 20, memory="1GiB") == 200 << 20
    assert sandbox.run(files, 8 << 20, tmp=16 << 20) == 8 << 20
