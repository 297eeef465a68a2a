"""The supervisor of a node store: keeps a copy of its books and descriptors, and starts it again.

The server outlives its supervisor, and the other way round: a new supervisor is given the books by
the running server, a new server is given them by the supervisor. Used inside an actor in Ray; run
as `python -m zerrow_store.node.supervisor` by `zerrow start`, and by a server that lost its own.
"""

import argparse
import contextlib
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from zerrow_store.errors import ProtocolError, StoreUnavailableError
from zerrow_store.node import logs, protocol
from zerrow_store.node.books import Books
from zerrow_store.node.budget import default_budget, default_eviction
from zerrow_store.node.segments import allow_many_descriptors

logger = logging.getLogger("zerrow_store.supervisor")


class Supervisor:
    """Supervises the store `name`. `start()` adopts a running server or starts one.

    budget: bytes the store may hold. eviction: the policy's name, see `policy`. watch_pid: a
    process with whose end the store ends, too. log: the server's log, see `logs`; by default in the
    XDG state directory.
    """

    def __init__(
        self,
        name: str,
        *,
        budget: int,
        eviction: str = "adaptive",
        watch_pid: int | None = None,
        log: Path | None = None,
        respawn: bool = False,
    ) -> None:
        self.id = os.urandom(8)
        self._name = name
        self._budget = budget
        self._eviction = eviction
        self._watch_pid = watch_pid
        self._log = log or logs.default_log(name)
        self._respawn = respawn
        self._books = Books()
        self._descriptors: dict[bytes, int] = {}
        self._stopping = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Return when the store serves."""
        self._connection, self._reader = self._adopt_or_spawn()
        self._thread = threading.Thread(target=self._follow, name="zerrow-supervisor", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the store, and supervision."""
        self._stopping = True
        with contextlib.suppress(OSError):  # it may be gone, or just being started again
            protocol.send(self._connection, protocol.pack("shutdown", 0, []))
        self.wait()

    def wait(self) -> None:
        """Return when supervision has ended."""
        assert self._thread is not None
        self._thread.join()

    def _adopt_or_spawn(self) -> tuple[socket.socket, protocol.FrameReader]:
        for _ in range(100):
            try:
                connection = protocol.connect(self._name)
            except StoreUnavailableError:
                started = self._spawn()
            else:
                started = self._adopt(connection)
            if started is not None:
                return started
            time.sleep(0.05)
        raise StoreUnavailableError(f"the store {self._name!r} could not be started")

    def _adopt(
        self, connection: socket.socket
    ) -> tuple[socket.socket, protocol.FrameReader] | None:
        """Take over the books of a running server; None, and nothing lost, if it is just ending."""
        known = self._books, self._descriptors
        self._books, self._descriptors = Books(), {}
        reader = protocol.FrameReader()
        hello = [protocol.PROTOCOL_VERSION, "supervisor", self.id]
        try:
            protocol.send(connection, protocol.pack("hello", 1, hello))
            kind = ""
            while kind != "reply":
                while (frame := reader.next()) is None:
                    if not reader.feed(connection):
                        raise ConnectionResetError("the server ended")
                kind = frame[0]
                self._apply(reader, *frame)
        except (OSError, ProtocolError):
            self._forget()
            self._books, self._descriptors = known
            connection.close()
            return None
        for fd in known[1].values():
            os.close(fd)
        return connection, reader

    def _spawn(self) -> tuple[socket.socket, protocol.FrameReader] | None:
        """Start a server and hand over what is known; None if another one was quicker."""
        ours, theirs = socket.socketpair()
        command = [sys.executable, "-m", "zerrow_store.node.server", "--name", self._name]
        command += ["--budget", str(self._budget), "--eviction", self._eviction]
        command += ["--log", str(self._log), "--supervisor-fd", str(theirs.fileno())]
        if self._watch_pid is not None:
            command += ["--watch-pid", str(self._watch_pid)]
        if self._respawn:
            command.append("--respawn-supervisor")
        log = logs.open_log(self._log)
        try:
            subprocess.run(
                command,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                check=True,
            )
        finally:
            os.close(log)
            theirs.close()
        try:
            for kind, body in self._books.snapshot():
                fds = [self._descriptors[body[0]]] if kind == "segment" else []
                protocol.send(ours, protocol.pack(kind, 0, body), fds)
            protocol.send(ours, protocol.pack("restored", 0, self.id))
            protocol.send(ours, protocol.pack("stats", 1, []))
            reader = protocol.FrameReader()
            while (frame := reader.next()) is None:
                if not reader.feed(ours):
                    ours.close()
                    return None
            self._apply(reader, *frame)
        except OSError:
            ours.close()
            return None
        return ours, reader

    def _follow(self) -> None:
        while True:
            try:
                while (frame := self._reader.next()) is None:
                    if not self._reader.feed(self._connection):
                        raise ConnectionResetError("the server ended")
                self._apply(self._reader, *frame)
            except (OSError, ProtocolError) as error:
                self._connection.close()
                if self._stopping or not self._may_restart():
                    self._forget()
                    return
                logger.warning("the store %s is started again: %s", self._name, error)
                self._connection, self._reader = self._adopt_or_spawn()
                if self._stopping:
                    protocol.send(self._connection, protocol.pack("shutdown", 0, []))

    def _apply(self, reader: protocol.FrameReader, kind: str, _: int, body: list[Any]) -> None:
        if kind == "reply":
            return
        if kind == "stopping":  # the store's end is meant, or another supervisor took over
            self._stopping = True
            return
        if kind == "segment":
            self._descriptors[body[0]] = reader.take_descriptor()
        self._books.apply(kind, body)
        if kind == "segment_gone":
            os.close(self._descriptors.pop(body[0]))

    def _may_restart(self) -> bool:
        return self._watch_pid is None or Path(f"/proc/{self._watch_pid}").exists()

    def _forget(self) -> None:
        for fd in self._descriptors.values():
            os.close(fd)
        self._descriptors.clear()
        self._books = Books()


def main() -> None:
    parser = argparse.ArgumentParser(description="The supervisor of a node store.")
    parser.add_argument("--name", required=True)
    parser.add_argument("--budget", type=int, default=default_budget())
    parser.add_argument("--eviction", default=default_eviction())
    parser.add_argument("--log", type=Path)
    arguments = parser.parse_args()
    log = arguments.log or logs.default_log(arguments.name)
    logs.start(logs.supervisor_log(log))
    allow_many_descriptors()
    supervisor = Supervisor(
        arguments.name,
        budget=arguments.budget,
        eviction=arguments.eviction,
        log=log,
        respawn=True,
    )
    supervisor.start()
    supervisor.wait()


if __name__ == "__main__":
    main()
