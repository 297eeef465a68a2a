"""The supervisor of a node store, which starts its server again.

It keeps a copy of the object table, and of the descriptors. The server outlives its supervisors,
and the other way round: a new supervisor is given the object table by the running server, a new
server is given it by a supervisor. All have the listening socket, so that a client that connects
while the server is away waits for the next one. A server has two supervisors, so that nothing is
lost when it ends together with one of them: it starts what is missing, as `python -m
zerrow_store.server.supervisor`. When it ends, both start a server; the second one sees that there
is one already, and joins the first.
"""

import argparse
import contextlib
import logging
import math
import os
import select
import socket
import subprocess
import threading
import time
from pathlib import Path

from zerrow_store import logs
from zerrow_store.budget import default_budget, default_eviction
from zerrow_store.errors import ProtocolError, StoreUnavailableError
from zerrow_store.processes import allow_many_descriptors
from zerrow_store.protocol import events, framing, sockets
from zerrow_store.protocol import messages as m
from zerrow_store.protocol.wire_errors import decode_error
from zerrow_store.server.change_count import ChangeCount
from zerrow_store.server.companion import Lasting
from zerrow_store.server.launch import store_command
from zerrow_store.server.replica import Replica

logger = logging.getLogger("zerrow_store.supervisor")

_START_SECONDS = 10.0
_PATIENCE_SECONDS = 30.0
_LONGEST_PAUSE = 1.0
_ANSWER_SECONDS = 0.2

SPARE = b"spare "
"""What the id of a supervisor begins with that a server has started."""

_Serving = tuple[socket.socket, framing.FrameReader]


class Supervisor:
    """Supervises the store `name`. `start()` takes over a running server or starts one.

    budget: bytes the store may hold. eviction: the policy's name, see `policy`. watch_pid: a
    process with whose end the store ends, too. log: the server's log, see `logs`; by default in the
    XDG state directory. spare: it ends when the store has enough supervisors without it. lasting:
    what the store is to do for as long as it runs. begins: it may start a store of which it knows
    nothing; not one that a server has started, whose end may be meant by now.

    It has many methods because a server is taken over or started in steps, each of which may fail.
    """

    def __init__(
        self,
        name: str,
        *,
        budget: int,
        eviction: str = "adaptive",
        watch_pid: int | None = None,
        log: Path | None = None,
        spare: bool = False,
        lasting: Lasting = Lasting(),  # noqa: B008  # it never changes
        begins: bool = True,
    ) -> None:
        self.id = (SPARE if spare else b"") + os.urandom(8)
        self._name = name
        self._budget = budget
        self._eviction = eviction
        self._watch_pid = watch_pid
        self._log = log or logs.default_log(name)
        self._lasting = lasting
        self._begins = begins
        self._replica = Replica()
        self._listener: socket.socket | None = None
        self._changes: ChangeCount | None = None
        self._seen = 0
        self._stopping = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Return when the store serves. Raises StoreUnavailableError if it cannot be started."""
        serving = self._have_server(time.monotonic() + _START_SECONDS)
        if serving is None:
            self._forget()
            raise StoreUnavailableError(
                f"the store {self._name!r} could not be started; {self._log} may say why"
            )
        self._connection, self._reader = serving
        self._thread = threading.Thread(target=self._run, name="zerrow-supervisor", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the store, and supervision."""
        self._stopping = True
        with contextlib.suppress(OSError):  # it may be gone, or just being started again
            framing.send(self._connection, framing.pack("shutdown", 0, m.Shutdown()))
        self.wait()

    def wait(self) -> None:
        """Return when supervision has ended."""
        assert self._thread is not None
        self._thread.join()

    # --- having a server ---

    def _have_server(self, deadline: float) -> _Serving | None:
        """Take over or start a server, however often that fails: what is known here may be known
        nowhere else. None at the deadline, or when the store's end is meant.
        """
        pause = 0.05
        while time.monotonic() < deadline and not self._is_ending() and self._may_restart():
            try:
                if (serving := self._take_over_or_start()) is not None:
                    return serving
            except Exception:
                logger.exception("the store %s cannot be started now", self._name)
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
        return None

    def _take_over_or_start(self) -> _Serving | None:
        """Return a connection to a server that has been given the object table, or has given it;
        None, and nothing lost, if neither can be done now.
        """
        # Whoever has the listener starts a server: a connection to it would wait for that one.
        if self._listener is None:
            with contextlib.suppress(StoreUnavailableError):
                return self._take_over(sockets.connect(self._name))
            if not (self._begins or self._replica.table.epoch):
                return None
            try:
                self._listener = sockets.listen(self._name)
            except OSError:  # another one was quicker
                return None
        try:
            claimed = sockets.claim(self._name)
        except OSError:
            return self._take_over(sockets.connect(self._name))
        with claimed:
            # Nobody serves now: what the last server has noted does not change any more.
            if self._is_ending():
                return None
            if self._changes is not None and self._seen < self._changes.value:
                if not self._changes.is_last():
                    return None  # another one may have the object table of now
                logger.error(
                    "the store %s is started with an outdated object table: newer objects are lost",
                    self._name,
                )
            return self._spawn(claimed)

    def _take_over(self, connection: socket.socket) -> _Serving | None:
        """Take over the object table of a running server; None, and nothing lost, if it ends
        meanwhile."""
        known = self._replica, self._listener, self._changes, self._seen
        self._replica, self._listener, self._changes = Replica(), None, None
        reader = framing.FrameReader()
        connection.settimeout(_PATIENCE_SECONDS)
        hello = m.Hello(framing.PROTOCOL_VERSION, "supervisor", self.id)
        try:
            framing.send(connection, framing.pack(hello.kind, 1, hello))
            self._await_answer(connection)
            while (frame := reader.read(connection)).kind != "reply":
                if frame.kind == "error":
                    raise ProtocolError(str(decode_error(frame.raw)))
                self._receive(frame)
            framing.send(connection, framing.pack("take_over", 0, m.TakeOver()))
        except (OSError, ProtocolError) as error:
            logger.warning("the store %s was not taken over: %s", self._name, error)
            self._forget()
            self._replica, self._listener, self._changes, self._seen = known
            reader.close()
            connection.close()
            return None
        connection.settimeout(None)
        replica, *shared, _ = known
        replica.close()
        _close(*shared)
        return connection, reader

    def _await_answer(self, connection: socket.socket) -> None:
        """Return when a server says something. Raises ConnectionAbortedError if there is none: who
        was about to start one may have ended.
        """
        while not select.select([connection], [], [], _ANSWER_SECONDS)[0]:
            try:
                sockets.claim(self._name).close()
            except OSError:
                continue
            raise ConnectionAbortedError("nobody is starting a server")

    def _spawn(self, claimed: socket.socket) -> _Serving | None:
        """Start a server, for which the store is claimed, and hand over what is known; None if it
        ends meanwhile. Raises OSError if none can be started.
        """
        assert self._listener is not None
        if not self._replica.table.epoch:
            self._replica.table.apply(events.TableBegun(os.urandom(16)))
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                self._run_server(theirs.fileno(), self._listener.fileno(), claimed.fileno())
            for event, fds in self._replica.snapshot():
                framing.send(ours, framing.pack(event.kind, 0, event, len(fds)), fds)
            if self._changes is None:
                self._changes = ChangeCount()
            mark = events.Restored(self.id)
            shared = [self._changes.fd]
            framing.send(ours, framing.pack(mark.kind, 0, mark, len(shared)), shared)
            framing.send(ours, framing.pack("stats", 1, m.Stats()))
            reader = framing.FrameReader()
            while (frame := reader.read(ours)).kind != "reply":
                self._receive(frame)
        except (ConnectionError, ProtocolError):
            ours.close()
            return None
        except BaseException:
            ours.close()
            raise
        return ours, reader

    def _run_server(self, supervisor_fd: int, listener_fd: int, claim_fd: int) -> None:
        """Start a server, which is a process of its own then."""
        command = store_command(
            "zerrow_store.server.server",
            self._name,
            budget=self._budget,
            eviction=self._eviction,
            log=self._log,
            watch_pid=self._watch_pid,
            lasting=self._lasting,
        )
        command += ["--supervisor-fd", str(supervisor_fd), "--listener-fd", str(listener_fd)]
        command += ["--claim-fd", str(claim_fd)]
        log = logs.open_log(self._log)
        try:
            started = subprocess.run(
                command,
                pass_fds=[supervisor_fd, listener_fd, claim_fd],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                check=False,
            )
        finally:
            os.close(log)
        if started.returncode:
            raise OSError(f"a server ended with exit code {started.returncode}, see {self._log}")

    # --- following it ---

    def _run(self) -> None:
        """Follow the server, and those that come after it, until the store's end is meant.

        If this ends for any other reason, the server sees it, and starts another supervisor.
        """
        try:
            while True:
                self._follow()
                if self._is_ending():
                    return
                serving = self._have_server(deadline=math.inf)
                if serving is None:
                    return
                self._connection, self._reader = serving
                if self._stopping:
                    with contextlib.suppress(OSError):
                        framing.send(self._connection, framing.pack("shutdown", 0, m.Shutdown()))
        finally:
            self._reader.close()
            self._connection.close()
            self._forget()

    def _follow(self) -> None:
        """Keep the object table until the server hangs up."""
        try:
            while True:
                self._receive(self._reader.read(self._connection))
        except (OSError, ProtocolError) as error:
            if not self._stopping:
                logger.warning("lost the server of the store %s: %s", self._name, error)
        self._reader.close()
        self._connection.close()

    def _receive(self, frame: framing.Frame) -> None:
        try:
            mark = self._replica.receive(frame)
            if mark is None:
                self._seen += 1
                return
            descriptors = frame.take_descriptors(mark.descriptors)
        finally:
            frame.close()
        if isinstance(mark, events.Stopping):
            self._stopping = True
            self._close_shared()
        elif isinstance(mark, events.Following):
            self._close_shared()
            listener, changes = descriptors
            self._listener, self._changes = socket.socket(fileno=listener), ChangeCount(changes)
            self._seen = mark.changes
            self._changes.has_all()
        else:
            raise ProtocolError(f"the server sent {mark.kind!r} to a supervisor")

    def _is_ending(self) -> bool:
        """Whether the store's end is meant, also if the server could not tell."""
        return self._stopping or (self._changes is not None and self._changes.ended)

    def _may_restart(self) -> bool:
        """Whether the watched process runs: a server would end with it at once."""
        return self._watch_pid is None or Path(f"/proc/{self._watch_pid}").exists()

    def _close_shared(self) -> None:
        _close(self._listener, self._changes)
        self._listener = self._changes = None

    def _forget(self) -> None:
        self._close_shared()
        self._replica.close()
        self._replica = Replica()


def _close(*shared: socket.socket | ChangeCount | None) -> None:
    for each in shared:
        if each is not None:
            each.close()


def main() -> None:
    parser = argparse.ArgumentParser(description="The supervisor of a node store.")
    parser.add_argument("--name", required=True)
    parser.add_argument("--budget", type=int, default=default_budget())
    parser.add_argument("--eviction", default=default_eviction())
    parser.add_argument("--log", type=Path)
    parser.add_argument("--watch-pid", type=int)
    parser.add_argument("--spare", action="store_true")
    parser.add_argument("--detach-fd", type=int, help="where to say that the store serves")
    Lasting.add_arguments(parser)
    arguments = parser.parse_args()
    log = arguments.log or logs.default_log(arguments.name)
    if arguments.detach_fd is not None and os.fork():
        os._exit(0)  # a process of its own, not a child of whoever has started it
    # Who has started it may be nicer than all who wait for the store, as Ray's workers are.
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, 0)
    logs.start(logs.supervisor_log(log))
    allow_many_descriptors()
    supervisor = Supervisor(
        arguments.name,
        budget=arguments.budget,
        eviction=arguments.eviction,
        watch_pid=arguments.watch_pid,
        log=log,
        spare=arguments.spare,
        lasting=Lasting.of(arguments),
        begins=arguments.detach_fd is not None or not arguments.spare,
    )
    supervisor.start()
    if arguments.detach_fd is not None:
        with contextlib.suppress(OSError):  # who has started it does not wait any more
            os.write(arguments.detach_fd, b"!")
        os.close(arguments.detach_fd)
    supervisor.wait()


if __name__ == "__main__":
    main()
