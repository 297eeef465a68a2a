"""The process of one call, as the host sees it: forked ahead, given a call, read for its answer."""

import selectors
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass

from zerrow_store.errors import (
    ProtocolError,
    SandboxError,
    SandboxMemoryError,
    SandboxTimeoutError,
)
from zerrow_store.protocol.framing import Frame, FrameReader
from zerrow_store.sandbox import messages
from zerrow_store.sandbox.cgroups import Cgroup
from zerrow_store.sandbox.messages import Call, Failure
from zerrow_store.sandbox.options import SandboxOptions
from zerrow_store.sandbox.sealed import Sealed
from zerrow_store.sandbox.streams import Streams

PATIENCE = 20.0
"""Seconds that a sandbox has for what takes milliseconds."""

_POLL_SECONDS = 0.1
_MOST_DESCRIPTORS = 100
"""In one frame."""


@dataclass(frozen=True)
class Request:
    """A call as the caller gives it.

    Attributes
    ----------
    pickle
        See `messages.Call`.
    messages
        SIPC messages of the Arrow arguments.
    segments
        The sealed segments that the messages refer to.
    extensions
        Pickles of the extension types of the arguments.
    """

    pickle: bytes
    messages: Sequence[bytes]
    segments: Sequence[Sealed]
    extensions: Sequence[bytes]


class CallProcess:
    """A process that waits for its call, in a control group of its own.

    Parameters
    ----------
    control
        The connection to the zygote.
    group
        The control group, or None for limits by `setrlimit`. `close` removes it; if the process
        cannot be forked, the caller does.

    Raises
    ------
    SandboxError
        The sandbox has ended.
    """

    def __init__(self, control: socket.socket, group: Cgroup | None) -> None:
        self._group = group
        self._reader = FrameReader(messages.LONGEST_FRAME, descriptors=1)
        ours, theirs = socket.socketpair()
        self._connection = ours
        try:
            ours.settimeout(PATIENCE)
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
            messages.send(control, messages.FORK, descriptors=[theirs.fileno()])
            theirs.close()
            self._reader.read(ours).close()
            if group is not None:
                group.add(self._reader.pid)
        except BaseException as error:  # an interrupt, too
            ours.close()
            self._reader.close()
            if isinstance(error, OSError | ProtocolError):
                raise SandboxError(f"the sandbox has ended: {error!r}") from error
            raise
        finally:
            theirs.close()

    def close(self) -> None:
        """Close the connection and remove the control group, once the process has ended."""
        self._reader.close()
        self._connection.close()
        if self._group is not None:
            self._group.remove()

    def run(self, request: Request, options: SandboxOptions, streams: Streams) -> Frame | None:
        """Send the call; return the frame of its answer, or None if the process ends without one.

        Raises
        ------
        SandboxTimeoutError
            No answer came within the call's timeout.
        ProtocolError
            The answer is no frame.
        """
        if self._group is not None:
            self._group.limit(memory=options.memory, processes=options.processes)
        try:
            self._send(request, options, streams)
            streams.close_writers()
            return self._answer(streams, options.timeout)
        except SandboxTimeoutError:  # an OSError, too
            raise
        except OSError:
            return None

    def error(self, answer: Frame | None, options: SandboxOptions) -> SandboxError:
        """Return the error of a call that has no result. Its processes have ended."""
        if answer is None:
            if self._group is not None and self._group.killed():
                return self._memory_error(options)
            return SandboxError(
                "the sandboxed function's process ended without a result: it crashed"
            )
        try:
            if answer.kind != messages.FAILURE:
                raise ProtocolError("it is neither result nor failure")
            failure = messages.decode(answer, Failure)
        except ProtocolError as error:
            return SandboxError(f"the sandbox's answer was refused: {error}")
        cause = SandboxError(
            f"{failure.type_name}: {failure.text}",
            type_name=failure.type_name,
            traceback=failure.traceback,
        )
        if not failure.is_memory_error:
            return cause
        exceeded = self._memory_error(options)
        exceeded.__cause__ = cause
        return exceeded

    def _memory_error(self, options: SandboxOptions) -> SandboxMemoryError:
        peak = self._group.peak() if self._group is not None else 0
        return SandboxMemoryError(limit=options.memory, peak=peak)

    def _send(self, request: Request, options: SandboxOptions, streams: Streams) -> None:
        rlimits = {}
        if self._group is None:
            rlimits = {"RLIMIT_DATA": options.memory, "RLIMIT_NPROC": options.processes}
        call = Call(
            request.pickle,
            list(request.messages),
            [(segment.id, segment.size) for segment in request.segments],
            list(request.extensions),
            rlimits,
        )
        fds = [*streams.writers, *(segment.fd for segment in request.segments)]
        for start in range(0, len(fds), _MOST_DESCRIPTORS):
            some = fds[start : start + _MOST_DESCRIPTORS]
            messages.send(self._connection, messages.DESCRIPTORS, descriptors=some)
        messages.send(self._connection, messages.CALL, call)

    def _answer(self, streams: Streams, timeout: float | None) -> Frame:
        """Return the frame of the answer. Forward the streams until it is there."""
        deadline = None if timeout is None else time.monotonic() + timeout
        self._connection.settimeout(None)
        with selectors.DefaultSelector() as selector:
            selector.register(self._connection, selectors.EVENT_READ)
            streams.register(selector)
            while True:
                left = None if deadline is None else deadline - time.monotonic()
                if timeout is not None and left is not None and left <= 0:
                    raise SandboxTimeoutError(timeout)
                # An interrupt that is no signal does not end `select`. Ray cancels tasks by one
                # (PyErr_SetInterrupt).
                pause = _POLL_SECONDS if left is None else min(left, _POLL_SECONDS)
                for key, _ in selector.select(pause):
                    if key.fileobj is self._connection:
                        if not self._reader.feed(self._connection):
                            raise ConnectionResetError("the call's process has ended")
                        if (frame := self._reader.next()) is not None:
                            return frame
                    elif not streams.forward(key.fd):
                        selector.unregister(key.fileobj)
