"""`zerrow top` in a terminal."""

import os
import pty
import re
import signal
import sys
import time

import pytest

import zerrow_store
from tests.helpers.data import table
from tests.helpers.processes import kill
from tests.helpers.python import zerrow

_CONTROL = re.compile(rb"\x1b\[[0-9;?]*[A-Za-z]")


class Terminal:
    """A command in a terminal of its own."""

    def __init__(self, *arguments: str) -> None:
        self.pid, self._fd = pty.fork()
        if self.pid == 0:
            size = {"TERM": "xterm", "COLUMNS": "200", "LINES": "24"}
            command = [sys.executable, "-m", "zerrow_store.cli.main", *arguments]
            os.execve(sys.executable, command, os.environ | size)
        self.shown = b""

    def read_until(self, pattern: bytes) -> "re.Match[bytes]":
        """Read until the terminal shows a pattern."""
        deadline = time.monotonic() + 60
        while not (found := re.search(pattern, _CONTROL.sub(b"", self.shown))):
            assert time.monotonic() < deadline, f"waited in vain for {pattern!r}: {self.shown!r}"
            self._read()
        self.shown = b""
        return found

    def interrupt(self) -> int:
        """Press control-C; returns the exit code."""
        os.write(self._fd, b"\x03")
        while self._read():
            pass
        os.close(self._fd)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def _read(self) -> bytes:
        try:
            piece = os.read(self._fd, 1 << 16)
        except OSError:  # the other end is closed
            piece = b""
        self.shown += piece
        return piece


@pytest.fixture
def terminal(name):
    running = Terminal("top", "--name", name, "--interval", "0.1")
    yield running
    try:
        os.kill(running.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    os.waitpid(running.pid, 0)


def test_it_follows_what_happens_until_control_c(name, terminal):
    terminal.read_until(rb"0% of 512 MiB +0 B +0 B +0 +0 ")
    client = zerrow_store.connect(name)
    kept = table(rows=2_000_000)
    client.put(kept)
    terminal.read_until(rb"6% of 512 MiB +30.5 MiB +0 B +1 +1 ")
    size = terminal.read_until(rb"%d +([0-9.]+ MiB) +0 B +30.5 MiB" % os.getpid())
    assert float(size[1].split()[0]) >= 30.5
    terminal.read_until(rb"[0-9.]+ MiB +0 B +1 +1 +0 B/s")  # the rate is of the last moment
    client.close()
    assert terminal.interrupt() == 0


def test_it_says_so_when_the_store_ends(name, terminal):
    terminal.read_until(rb"of 512 MiB")
    zerrow("stop", "--name", name)
    terminal.read_until(rb"no store named")
    assert terminal.interrupt() == 0


def test_it_goes_on_with_a_server_that_is_started_again(name, terminal):
    client = zerrow_store.connect(name)
    client.put(table(rows=2_000_000))
    terminal.read_until(rb"30.5 MiB")
    kill(client.stats().pid)
    terminal.read_until(rb"6% of 512 MiB +30.5 MiB +0 B +1 ")
    client.close()
    assert terminal.interrupt() == 0


def test_without_a_terminal_it_says_what_else_there_is(name):
    done = zerrow("top", "--name", name)
    assert done.returncode == 2
    assert "zerrow status" in done.stderr
