"""What the node tests share: a store, processes that obey, and a look from outside.

What a test asserts about memory, descriptors and processes comes from /proc, never from the store.
"""

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import time
from ast import literal_eval
from collections.abc import Callable
from pathlib import Path
from typing import Any

from zerrow_store.client.client import Client
from zerrow_store.connection import connect
from zerrow_store.server.supervisor import Supervisor

MEMORY_FILES = ("/memfd:", "/zerrow (deleted)")
"""How the kernel names memory files: memfds, and those in huge pages."""

_LOOP = """
import ast, sys, traceback
names = {}
for line in sys.stdin:
    try:
        code = ast.parse(ast.literal_eval(line))
        last = code.body.pop() if isinstance(code.body[-1], ast.Expr) else None
        exec(compile(code, "<told>", "exec"), names)
        value = eval(compile(ast.Expression(last.value), "<told>", "eval"), names) if last else None
        answer = ("value", value)
        del value
    except BaseException as error:
        answer = ("error", "".join(traceback.format_exception(error)))
    print(repr(answer), flush=True)
    del answer
"""


class Store:
    """A store supervised by this process, and the clients that the test has made."""

    def __init__(self, name: str, *, budget: int, eviction: str = "adaptive") -> None:
        self.name = name
        self.supervisor = Supervisor(name, budget=budget, eviction=eviction, watch_pid=os.getpid())
        self.supervisor.start()
        self._clients: list[Client] = []
        self._workers: list[Worker] = []

    def connect(self) -> Client:
        """Connect this process."""
        client = connect(self.name)
        self._clients.append(client)
        return client

    def connected(self) -> Client:
        """Return a client of this process, the same at each call."""
        return self._clients[0] if self._clients else self.connect()

    def worker(self) -> "Worker":
        """Start a process that is connected as `client`, with `pa`, `pc`, `os` and `gc`."""
        worker = Worker()
        self._workers.append(worker)
        worker.do(f"""
            import gc, os
            import pyarrow as pa, pyarrow.compute as pc
            import zerrow_store
            client = zerrow_store.connect({self.name!r})
        """)
        return worker

    def server_pid(self) -> int:
        """Return the server's pid, as the kernel's list of processes has it."""
        (pid,) = self.remains()
        return pid

    def is_complete(self) -> bool:
        """Whether the server has its second supervisor, which comes a moment after it."""
        return self.connected().stats().supervisors == 2

    def remains(self) -> list[int]:
        """Return the pids of this store's servers."""
        return servers_of(self.name)

    def memory(self) -> int:
        """Return the bytes that the memory files of the server really take."""
        return sum(os.stat(path).st_blocks * 512 for path in memory_files(self.server_pid()))

    def stop(self) -> None:
        for worker in self._workers:
            worker.kill()
        for client in self._clients:
            client.close()
        self.supervisor.stop()
        wait_until(lambda: not self.remains())


def servers_of(name: str) -> list[int]:
    """Return the pids of a store's servers."""
    return processes("zerrow_store.server.server", name)


def supervisors_of(name: str) -> list[int]:
    """Return the pids of a store's supervisors that are processes of their own."""
    return processes("zerrow_store.server.supervisor", name)


def both_supervisors(name: str) -> list[int]:
    """Return the pids of a store's two supervisors, once both run and have everything. What the
    server says may be of before one of them was killed.
    """
    with contextlib.closing(Client(name)) as client:
        while True:
            found = supervisors_of(name)
            if len(found) == client.stats().supervisors == 2 and found == supervisors_of(name):
                return found


class Worker:
    """A Python process that runs what it is told, statement by statement.

    prefix: a command that starts it, with its arguments.
    """

    def __init__(self, *prefix: str) -> None:
        self._process = subprocess.Popen(
            [*prefix, sys.executable, "-c", _LOOP],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.pid = self._process.pid

    def do(self, code: str) -> Any:
        """Run code there; returns the value of its last expression, a literal."""
        self.start(code)
        return self.finish()

    def start(self, code: str) -> None:
        """Begin to run code there."""
        assert self._process.stdin is not None
        self._process.stdin.write(repr(textwrap.dedent(code)) + "\n")
        self._process.stdin.flush()

    def finish(self) -> Any:
        """Wait for what was begun; returns the value of its last expression, a literal."""
        assert self._process.stdout is not None
        kind, value = literal_eval(self._process.stdout.readline())
        assert kind == "value", value
        return value

    def kill(self) -> None:
        """End it as `kill -9` does; returns when it is gone."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()


def processes(*words: str) -> list[int]:
    """Return the pids of the processes whose command lines have all these words."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes().decode().split("\0")
            except OSError:
                continue
            if all(word in command for word in words):
                found.append(int(entry.name))
    return found


def memory_files(pid: int) -> list[str]:
    """Return the paths in /proc of a process's memory files: memfds, and those in huge pages.

    Not the page in which a server counts its changes.
    """
    folder = f"/proc/{pid}/fd"
    links = {path: _link(path) for path in (f"{folder}/{fd}" for fd in os.listdir(folder))}
    return [
        path
        for path, link in links.items()
        if link.startswith(MEMORY_FILES) and "zerrow-changes" not in link
    ]


def spilled_files(server: int) -> list[str]:
    """Return the paths in /proc of the files that a store's server has spilled to."""
    folder = f"/proc/{server}/fd"
    links = {path: _link(path) for path in (f"{folder}/{fd}" for fd in os.listdir(folder))}
    return [
        path
        for path, link in links.items()
        if "(deleted)" in link and not link.startswith(MEMORY_FILES)
    ]


def descriptors(pid: int) -> int:
    """Return how many descriptors a process has open."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def mappings(pid: int) -> int:
    """Return how many ranges of memory files a process has mapped."""
    maps = Path(f"/proc/{pid}/maps").read_text()
    return sum(maps.count(name) for name in MEMORY_FILES)


def kill(pid: int) -> None:
    """`kill -9`; returns when the process is gone."""
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not alive(pid))


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until(condition: Callable[[], Any]) -> None:
    """Wait for a condition; the test runner's watchdog ends a wait for what never comes."""
    while not condition():
        time.sleep(0.01)


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""
