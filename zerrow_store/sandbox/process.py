"""One sandbox as the host sees it: its first process, and the call that runs in it.

A sandbox runs one call at a time, in the thread that asked for it. Whatever goes wrong on the way,
a timeout or an interruption included, ends the whole sandbox: `usable` is then False.
"""

import contextlib
import logging
import os
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import msgpack

from zerrow_store.errors import (
    ProtocolError,
    SandboxError,
    SandboxMemoryError,
    SandboxTimeoutError,
    SandboxUnavailableError,
    ZerrowError,
)
from zerrow_store.sandbox import channel, outputs, stats
from zerrow_store.sandbox.cgroups import Cgroup, hierarchies
from zerrow_store.sandbox.child import ERROR, RESULT
from zerrow_store.sandbox.launcher import launch, warn_once
from zerrow_store.sandbox.options import SandboxOptions
from zerrow_store.sandbox.sealed import Sealed
from zerrow_store.sandbox.values import LONGEST_FRAME

logger = logging.getLogger("zerrow_store.sandbox")

READY, WARM, FORK, END, ENDED = b"ready", b"warm", b"fork", b"end", b"ended"
_PATIENCE = 20.0
_PAUSE = 0.1
_CHUNK = 1 << 16
_LONGEST_SAID = 4000


@dataclass(frozen=True)
class Request:
    """What a call takes along. call: the pickle; messages: those of its Arrow inputs."""

    call: bytes
    messages: Sequence[bytes]
    segments: Sequence[Sealed]
    extensions: Sequence[bytes]


class _Call:
    """The process of the next call, forked and confined ahead of it."""

    def __init__(self, control: socket.socket, group: Cgroup | None) -> None:
        self.group = group
        ours, theirs = socket.socketpair()
        self.connection = ours
        self.receiver = channel.Receiver(ours, longest=LONGEST_FRAME + 64, descriptors=1)
        try:
            ours.settimeout(_PATIENCE)
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
            channel.send(control, FORK, [theirs.fileno()])
            theirs.close()
            self.receiver.wait()
            if group is not None:
                group.add(self.receiver.pid)
        except (EOFError, OSError, ProtocolError) as error:
            self.close()
            raise SandboxError(f"the sandbox has ended: {error!r}") from error
        finally:
            theirs.close()

    def close(self) -> None:
        self.receiver.close()
        if self.group is not None:
            self.group.remove()


class Sandbox:
    """Starts with its construction; `wait` until it is ready. Raises SandboxUnavailableError."""

    def __init__(self, options: SandboxOptions) -> None:
        self.usable = True
        self._best_effort = options.best_effort
        self._next: Future[_Call] | None = None
        self._last: _Call | None = None
        self._ended = True
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
        try:
            self._control.settimeout(_PATIENCE)
            if self._receiver.wait() != READY:
                raise ProtocolError("it is not a sandbox's first process")
            self._pidfd = os.pidfd_open(self._receiver.pid)
        except (EOFError, OSError, ProtocolError) as error:
            self._control.close()
            said = self._said()
            self.usable = False
            raise SandboxUnavailableError(
                f"the sandbox did not start: {said.decode(errors='replace').strip() or error}"
            ) from error
        except BaseException:  # interrupted
            self.close()
            raise

    def prepare(self) -> None:
        """Fork and confine the process of the next call, in the background: it takes milliseconds
        that no caller has to wait for."""
        self._next = Future()
        work = threading.Thread(target=self._prepare, args=(self._next,), daemon=True)
        work.start()

    def ready(self) -> bool:
        """Whether the process of the next call is there, or has failed to be."""
        return self._next is not None and self._next.done()

    def prepared(self) -> bool:
        """Wait for what `prepare` began; False if it has failed."""
        return self._next is not None and self._next.exception() is None

    def run(self, request: Request, options: SandboxOptions) -> Any:
        """Run one call and return its result. Raises SandboxError, SandboxUnavailableError."""
        if self._next is None:
            self._next = Future()
            self._prepare(self._next, warm=False)
        call = None
        done = False
        try:
            call = self._next.result()
            if call.group is not None:
                call.group.limit(memory=options.memory, processes=options.processes)
            value = self._run(call, request, options)
            done = True
            return value
        except SandboxTimeoutError:
            stats.count(timeouts=1)
            raise
        except _CallFailed as failed:
            done = True
            raise _count(failed.error) from failed.error.__cause__
        except ProtocolError as error:
            raise _count(SandboxError(f"the sandbox was ended: {error}")) from error
        finally:
            if done and call is not None:
                self._last, self._next = call, None
                if self._ended:
                    call.close()
            else:
                self.close()

    def close(self) -> None:
        """End all processes of the sandbox, and wait for their end."""
        if not self.usable:
            return
        self.usable = False
        if self._pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            os.close(self._pidfd)
            self._pidfd = -1
            self._process.kill()
        else:
            # Still starting: its first process ends by itself when it finds the host gone. Killed
            # now, bubblewrap might leave one behind that waits for it.
            self._control.close()
        if said := self._said().decode(errors="replace").strip():
            logger.warning("a sandbox said: %s", said[-_LONGEST_SAID:])
        # What is being prepared fails now; the socket is its own until it has.
        if self._next is not None:
            with contextlib.suppress(ZerrowError, OSError):
                self._next.result().close()
            self._next = None
        self._control.close()
        if self._last is not None:
            self._last.close()
            self._last = None

    def _said(self) -> bytes:
        """Wait for bubblewrap's end; return what it, and the first process, wrote to stderr."""
        try:
            _, said = self._process.communicate(timeout=_PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            assert self._process.stderr is not None
            self._process.stderr.close()
            self._process.wait()
            return b"it did not end, and was killed"
        return said

    def abandon(self) -> None:
        """Close this process's descriptors of a sandbox that is its parent's, after a fork."""
        self.usable = False
        self._control.close()

    def _prepare(self, following: "Future[_Call]", warm: bool = True) -> None:
        group = None
        try:
            if not self._ended:
                self._end()
            if self._last is not None:
                self._last.close()
                self._last = None
            if warm:
                channel.send(self._control, WARM)
            group = _group(self._best_effort)
            following.set_result(_Call(self._control, group))
        except Exception as error:
            if group is not None:
                group.remove()
            following.set_exception(error)

    def _run(self, call: _Call, request: Request, options: SandboxOptions) -> Any:
        streams = _Streams()
        frame = None
        try:
            try:
                _send(call, request, options, streams)
                streams.close_writers()
                frame = _follow(call, streams, options.timeout)
            except SandboxTimeoutError:  # an OSError, too
                raise
            except (EOFError, OSError):
                pass  # its process has ended: why is asked below
            fds = call.receiver.take_descriptors()
            self._ended = False
            # What refers to no memory of the call's need not wait for its end.
            if fds or frame is None or frame[:1] != RESULT:
                self._end()
            streams.drain()
        finally:
            streams.close()
        if frame is None:
            raise _CallFailed(_died(options, call.group))
        if frame[:1] == RESULT:
            most = max(64 << 20, options.memory) + (2 << 20)
            try:
                return outputs.receive(frame[1:], fds, request.segments, most)
            except SandboxError as error:
                raise _CallFailed(error) from error
        for fd in fds:
            os.close(fd)
        raise _CallFailed(_failure(frame, options, call.group))

    def _end(self) -> None:
        """Let nothing of the call be left."""
        self._control.settimeout(_PATIENCE)
        try:
            channel.send(self._control, END)
            if self._receiver.wait() != ENDED:
                raise ProtocolError("an unexpected answer")
            self._ended = True
        except (EOFError, OSError) as error:
            raise ProtocolError(f"it did not end its call: {error!r}") from error


class _CallFailed(Exception):
    """The call ended without a result, and in order: the sandbox can serve another."""

    def __init__(self, error: SandboxError) -> None:
        super().__init__()
        self.error = error


def _count(error: SandboxError) -> SandboxError:
    memory = isinstance(error, SandboxMemoryError)
    stats.count(**{"out_of_memory" if memory else "failed": 1})
    return error


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
        """Pass on some of what is there; False if nothing is."""
        try:
            data = os.read(reader, _CHUNK)
        except BlockingIOError:
            return False
        stream = self._readers[reader]
        if data and stream is not None:
            stream.write(data.decode(errors="replace"))
            stream.flush()
        return bool(data)

    def drain(self) -> None:
        """Pass on the rest of what the call wrote before its result."""
        for reader in self._readers:
            while self.forward(reader):
                pass

    def close_writers(self) -> None:
        while self.writers:
            os.close(self.writers.pop())

    def close(self) -> None:
        self.close_writers()
        while self._readers:
            os.close(self._readers.popitem()[0])


def _group(best_effort: bool) -> Cgroup | None:
    try:
        return Cgroup(hierarchies())
    except SandboxUnavailableError as error:
        if not best_effort:
            raise
        warn_once(f"a sandbox has weaker limits, by setrlimit: {error}")
        return None


def _send(call: _Call, request: Request, options: SandboxOptions, streams: _Streams) -> None:
    rlimits = {}
    if call.group is None:
        rlimits = {"RLIMIT_DATA": options.memory, "RLIMIT_NPROC": options.processes}
    order = msgpack.packb(
        {
            "call": request.call,
            "messages": list(request.messages),
            "segments": [(segment.id, segment.size) for segment in request.segments],
            "extensions": list(request.extensions),
            "rlimits": rlimits,
        }
    )
    fds = [*streams.writers, *(segment.fd for segment in request.segments)]
    for start in range(0, len(fds), 100):
        channel.send(call.connection, b"more", fds[start : start + 100])
    channel.send(call.connection, order)


def _follow(call: _Call, streams: _Streams, timeout: float | None) -> bytes:
    """Return the result frame; what is written meanwhile is passed on."""
    connection = call.connection
    deadline = None if timeout is None else time.monotonic() + timeout
    connection.settimeout(None)
    with selectors.DefaultSelector() as selector:
        selector.register(connection, selectors.EVENT_READ)
        streams.register(selector)
        while True:
            left = None if deadline is None else deadline - time.monotonic()
            if timeout is not None and left is not None and left <= 0:
                raise SandboxTimeoutError(timeout)
            # Not for longer: an interruption that is no signal does not end the wait. Ray's
            # cancellation, by PyErr_SetInterrupt, is one.
            pause = _PAUSE if left is None else min(left, _PAUSE)
            for key, _ in selector.select(pause):
                if key.fileobj is connection:
                    if (frame := call.receiver.read()) is not None:
                        return frame
                elif not streams.forward(key.fd):
                    selector.unregister(key.fileobj)


def _died(options: SandboxOptions, group: Cgroup | None) -> SandboxError:
    if group is not None and group.killed():
        return SandboxMemoryError(limit=options.memory, peak=group.peak())
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
        return SandboxError(f"the sandbox's answer was refused: {error}")
    failure = SandboxError(f"{name}: {text}", type_name=name, traceback=trace)
    if memory is True:
        short = SandboxMemoryError(limit=options.memory, peak=group.peak() if group else 0)
        short.__cause__ = failure
        return short
    return failure
