"""One sandbox as the host sees it: its first process, and the call that runs in it.

A sandbox runs one call at a time, in the thread that asked for it. Whatever goes wrong on the way,
a timeout or an interruption included, ends the whole sandbox: `usable` is then False.
"""

import contextlib
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgpack

from zerrow_store.errors import (
    ProtocolError,
    SandboxError,
    SandboxMemoryError,
    SandboxTimeoutError,
    SandboxUnavailableError,
)
from zerrow_store.sandbox import channel, outputs, stats
from zerrow_store.sandbox.cgroups import Cgroup, hierarchies
from zerrow_store.sandbox.child import ERROR, RESULT
from zerrow_store.sandbox.launcher import launch
from zerrow_store.sandbox.options import SandboxOptions
from zerrow_store.sandbox.sealed import Sealed
from zerrow_store.sandbox.values import LONGEST_FRAME

READY, FORK, END, ENDED = b"ready", b"fork", b"end", b"ended"
_PATIENCE = 20.0
_CHUNK = 1 << 16


@dataclass(frozen=True)
class Request:
    """What a call takes along. call: the pickle; messages: those of its Arrow inputs."""

    call: bytes
    messages: Sequence[bytes]
    segments: Sequence[Sealed]
    extensions: Sequence[bytes]


class Sandbox:
    """Starts with its construction; `wait` until it is ready. Raises SandboxUnavailableError."""

    def __init__(self, options: SandboxOptions) -> None:
        self._options = options
        self.usable = True
        self._calls: tuple[socket.socket, channel.Receiver] | None = None
        self._pidfd = -1
        ours, theirs = socket.socketpair()
        try:
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
            self._process = launch(options, theirs.fileno())
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        self._control = ours
        self._receiver = channel.Receiver(ours, longest=64, descriptors=0)
        stats.count(started=1)

    def wait(self) -> None:
        """Return when it is ready. Raises SandboxUnavailableError with bubblewrap's reason."""
        if self._pidfd >= 0:
            return
        try:
            self._control.settimeout(_PATIENCE)
            if self._receiver.wait() != READY:
                raise ProtocolError("it is not a sandbox's first process")
            self._pidfd = os.pidfd_open(self._receiver.pid)
            self._prepare()
        except (EOFError, OSError, ProtocolError) as error:
            self._control.close()
            self._process.kill()
            _, said = self._process.communicate()
            self.close()
            raise SandboxUnavailableError(
                f"the sandbox did not start: {said.decode(errors='replace').strip() or error}"
            ) from error

    def run(self, request: Request, options: SandboxOptions) -> Any:
        """Run one call and return its result. Raises SandboxError."""
        self.wait()
        group = None
        try:
            group = _group(options)
            return self._run(request, options, group)
        except SandboxTimeoutError:
            stats.count(timeouts=1)
            raise
        except SandboxMemoryError:
            stats.count(out_of_memory=1)
            raise
        except ProtocolError as error:
            stats.count(failed=1)
            raise SandboxError(f"the sandbox was ended: {error}") from error
        finally:
            if self._calls is not None:
                self.close()
            if group is not None:
                group.remove()
            if self.usable and not options.fresh:
                self._prepare()

    def close(self) -> None:
        """End all processes of the sandbox, and wait for their end."""
        self.usable = False
        if self._calls is not None:
            self._calls[1].close()
            self._calls = None
        self._control.close()
        if self._pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            os.close(self._pidfd)
            self._pidfd = -1
        self._process.kill()
        self._process.communicate()

    def abandon(self) -> None:
        """Close this process's descriptors of a sandbox that is its parent's, after a fork."""
        self.usable = False
        self._control.close()
        if self._calls is not None:
            self._calls[1].close()

    def _prepare(self) -> None:
        """Let the next call's process be forked, ahead of the call."""
        ours, theirs = socket.socketpair()
        try:
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
            channel.send(self._control, FORK, [theirs.fileno()])
        except OSError:
            ours.close()
            self.close()
        else:
            receiver = channel.Receiver(ours, longest=LONGEST_FRAME + 64, descriptors=1)
            self._calls = (ours, receiver)
        finally:
            theirs.close()

    def _run(self, request: Request, options: SandboxOptions, group: Cgroup | None) -> Any:
        if self._calls is None:
            raise SandboxError("the sandbox has ended")
        connection, receiver = self._calls
        streams = _Streams()
        frame = None
        try:
            connection.settimeout(_PATIENCE)
            with contextlib.suppress(EOFError, OSError):
                receiver.wait()
                if group is not None:
                    group.add(receiver.pid)
                _send(connection, request, options, group, streams)
                streams.close_writers()
                frame = _follow(connection, receiver, streams, options.timeout)
            fds = receiver.take_descriptors()
            self._end()
            streams.drain()
        finally:
            streams.close()
        if frame is None:
            raise _died(options, group)
        if frame[:1] == RESULT:
            most = max(64 << 20, options.memory) + (2 << 20)
            return outputs.receive(frame[1:], fds, request.segments, most)
        for fd in fds:
            os.close(fd)
        raise _failure(frame, options, group)

    def _end(self) -> None:
        """Let nothing of the call be left."""
        self._control.settimeout(_PATIENCE)
        try:
            channel.send(self._control, END)
            if self._receiver.wait() != ENDED:
                raise ProtocolError("an unexpected answer")
        except (EOFError, OSError, ProtocolError) as error:
            self.close()
            raise SandboxError(f"the sandbox did not end its call: {error!r}") from error
        assert self._calls is not None
        self._calls[1].close()
        self._calls = None


class _Streams:
    """The call's stdout and stderr: pipes, whose contents go to this process's own streams."""

    def __init__(self) -> None:
        self.writers: list[int] = []
        self._readers: dict[int, Any] = {}
        for stream in (sys.stdout, sys.stderr):
            reader, writer = os.pipe2(os.O_CLOEXEC)
            os.set_blocking(reader, False)
            self._readers[reader] = stream
            self.writers.append(writer)

    def register(self, selector: selectors.BaseSelector) -> None:
        for reader in self._readers:
            selector.register(reader, selectors.EVENT_READ)

    def forward(self, reader: int) -> bool:
        """Pass on what is there; False at the end."""
        try:
            data = os.read(reader, _CHUNK)
        except BlockingIOError:
            return True
        stream = self._readers[reader]
        if data and stream is not None:
            stream.write(data.decode(errors="replace"))
            stream.flush()
        return bool(data)

    def drain(self) -> None:
        """Pass on the rest; all writers have ended."""
        for reader in self._readers:
            os.set_blocking(reader, True)
            while self.forward(reader):
                pass

    def close_writers(self) -> None:
        while self.writers:
            os.close(self.writers.pop())

    def close(self) -> None:
        self.close_writers()
        while self._readers:
            os.close(self._readers.popitem()[0])


def _group(options: SandboxOptions) -> Cgroup | None:
    try:
        where = hierarchies()
    except SandboxUnavailableError:
        if options.best_effort:
            return None
        raise
    return Cgroup(where, memory=options.memory, processes=options.processes)


def _send(
    connection: socket.socket,
    request: Request,
    options: SandboxOptions,
    group: Cgroup | None,
    streams: _Streams,
) -> None:
    rlimits = {}
    if group is None:
        rlimits = {"RLIMIT_DATA": options.memory, "RLIMIT_NPROC": options.processes}
    order = msgpack.packb(
        {
            "call": request.call,
            "messages": list(request.messages),
            "segments": [(segment.id, segment.size) for segment in request.segments],
            "extensions": list(request.extensions),
            "memory": options.memory,
            "rlimits": rlimits,
        }
    )
    fds = [*streams.writers, *(segment.fd for segment in request.segments)]
    for start in range(0, len(fds), 100):
        channel.send(connection, b"more", fds[start : start + 100])
    channel.send(connection, order)


def _follow(
    connection: socket.socket,
    receiver: channel.Receiver,
    streams: _Streams,
    timeout: float | None,
) -> bytes:
    """Return the result frame; what is written meanwhile is passed on."""
    deadline = None if timeout is None else time.monotonic() + timeout
    connection.settimeout(None)
    with selectors.DefaultSelector() as selector:
        selector.register(connection, selectors.EVENT_READ)
        streams.register(selector)
        while True:
            left = None if deadline is None else deadline - time.monotonic()
            if timeout is not None and left is not None and left <= 0:
                raise SandboxTimeoutError(timeout)
            for key, _ in selector.select(left):
                if key.fileobj is connection:
                    if (frame := receiver.read()) is not None:
                        return frame
                elif not streams.forward(key.fd):
                    selector.unregister(key.fileobj)


def _died(options: SandboxOptions, group: Cgroup | None) -> SandboxError:
    if group is not None and group.killed():
        return SandboxMemoryError(limit=options.memory, peak=group.peak())
    stats.count(failed=1)
    return SandboxError("the sandboxed function's process ended without a result: it crashed")


def _failure(frame: bytes, options: SandboxOptions, group: Cgroup | None) -> SandboxError:
    """Return the error that the sandbox reports, in its own words."""
    try:
        if frame[:1] != ERROR:
            raise ProtocolError("it is neither result nor error")
        name, text, trace, memory = msgpack.unpackb(frame[1:])
        for part in (name, text, trace):
            if not isinstance(part, str):
                raise ProtocolError("an error is made of text")
    except Exception as error:
        stats.count(failed=1)
        return SandboxError(f"the sandbox's answer was refused: {error}")
    failure = SandboxError(f"{name}: {text}", type_name=name, traceback=trace)
    if memory is True:
        short = SandboxMemoryError(limit=options.memory, peak=group.peak() if group else 0)
        short.__cause__ = failure
        return short
    stats.count(failed=1)
    return failure
