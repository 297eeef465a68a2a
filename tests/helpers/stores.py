"""A store that a test has made, its processes, and its absence."""

import contextlib
import os
import signal

from tests.helpers.processes import kill, memory_files, processes
from tests.helpers.python import Worker
from tests.helpers.waiting import wait_until
from zerrow_store.client.client import Client
from zerrow_store.connection import connect
from zerrow_store.errors import StoreUnavailableError
from zerrow_store.server.supervisor import Supervisor


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

    def worker(self) -> Worker:
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


def is_there(name: str) -> bool:
    """Whether a store answers."""
    try:
        Client(name).close()
    except StoreUnavailableError:
        return False
    return True


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


class Away:
    """A store whose server is killed, and whose supervisors are stopped until `back`."""

    def __init__(self, name: str) -> None:
        self.supervisors = both_supervisors(name)
        self.server = Client(name).stats().pid
        for pid in self.supervisors:
            os.kill(pid, signal.SIGSTOP)
        kill(self.server)

    def back(self) -> None:
        for pid in self.supervisors:
            os.kill(pid, signal.SIGCONT)

    def for_good(self) -> None:
        for pid in self.supervisors:
            kill(pid)
