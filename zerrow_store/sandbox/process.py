"""The lifecycle of one sandbox: its start, the calls it runs, its end.

A sandbox runs one call at a time, in the caller's thread. Any error that is not the call's own, a
timeout or an interrupt included, ends the whole sandbox: `usable` is False then.
"""

import contextlib
import logging
import os
import signal
import socket
import subprocess
import threading
from concurrent.futures import Future
from typing import Any

from zerrow_store.errors import (
    ProtocolError,
    SandboxError,
    SandboxMemoryError,
    SandboxTimeoutError,
    SandboxUnavailableError,
)
from zerrow_store.once import warn_once
from zerrow_store.protocol.framing import FrameReader
from zerrow_store.sandbox import messages, outputs, stats
from zerrow_store.sandbox.call_process import PATIENCE, CallProcess, Request
from zerrow_store.sandbox.cgroups import Cgroup, hierarchies
from zerrow_store.sandbox.launcher import launch
from zerrow_store.sandbox.options import SandboxOptions
from zerrow_store.sandbox.streams import Streams

logger = logging.getLogger("zerrow_store.sandbox")

_LONGEST_LOGGED = 4000


class Sandbox:
    """A sandbox, which starts with its construction: `wait` until it is ready.

    Raises
    ------
    SandboxUnavailableError
        It cannot be started.
    """

    def __init__(self, options: SandboxOptions) -> None:
        self.usable = True
        self._best_effort = options.best_effort
        self._next: Future[CallProcess] | None = None
        self._last: CallProcess | None = None
        self._last_ended = True
        self._group: Cgroup | None = None
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
        self._reader = FrameReader(64, descriptors=0)
        stats.count(started=1)

    def wait(self) -> None:
        """Wait until the sandbox is ready.

        Raises
        ------
        SandboxUnavailableError
            It did not start; the text is bubblewrap's.
        """
        try:
            self._control.settimeout(PATIENCE)
            if self._reader.read(self._control).kind != messages.READY:
                raise ProtocolError("it is not a sandbox's first process")
            self._pidfd = os.pidfd_open(self._reader.pid)
        except (OSError, ProtocolError) as error:
            self._control.close()
            self.usable = False
            raise SandboxUnavailableError(
                f"the sandbox did not start: {self._stderr() or error}"
            ) from error
        except BaseException:  # interrupted
            self.close()
            raise

    def prepare(self) -> None:
        """Fork the next call's process in the background, so that no caller waits for it."""
        self._next = Future()
        work = threading.Thread(target=self._prepare, args=(self._next,), daemon=True)
        work.start()

    def ready(self) -> bool:
        """Return whether the next call's process is there, or could not be forked."""
        return self._next is not None and self._next.done()

    def prepared(self) -> bool:
        """Wait for `prepare`; return whether the next call's process is there."""
        return self._next is not None and self._next.exception() is None

    def run(self, request: Request, options: SandboxOptions) -> Any:
        """Run one call and return its result.

        Raises
        ------
        SandboxError
            The function raised it, or the sandbox failed.
        SandboxUnavailableError
            The call cannot be confined as asked.
        """
        call = None
        done = False
        try:
            if self._next is None:
                self._next = Future()
                self._prepare(self._next, warm=False)
            call = self._next.result()
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
                if self._last_ended:
                    call.close()
            else:
                self.close()

    def close(self) -> None:
        """Kill all processes of the sandbox and wait for their end."""
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
            # Still starting: its first process exits when it finds the host gone. Killing
            # bubblewrap now could leave behind a process that waits for it.
            self._control.close()
        if text := self._stderr():
            logger.warning("a sandbox wrote to stderr: %s", text[-_LONGEST_LOGGED:])
        # A `prepare` that runs fails now. Until then it uses the socket.
        if self._next is not None:
            if self._next.exception() is None:
                self._next.result().close()
            self._next = None
        self._control.close()
        if self._last is not None:
            self._last.close()
            self._last = None
        if self._group is not None:
            self._group.remove()

    def _stderr(self) -> str:
        """Wait for bubblewrap's end; return what it and the first process wrote to stderr."""
        try:
            _, text = self._process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            assert self._process.stderr is not None
            self._process.stderr.close()
            self._process.wait()
            return "it did not end, and was killed"
        return text.decode(errors="replace").strip()

    def abandon(self) -> None:
        """Close a forked child's descriptors of its parent's sandbox."""
        self.usable = False
        self._control.close()

    def _prepare(self, following: "Future[CallProcess]", warm: bool = True) -> None:
        try:
            if not self._last_ended:
                self._end_call()
            if self._last is not None:
                self._last.close()
                self._last = None
            if warm:
                messages.send(self._control, messages.WARM)
            self._group = _group(self._best_effort)
            following.set_result(CallProcess(self._control, self._group))
        except BaseException as error:  # an interrupt, too: `close` waits for the outcome
            following.set_exception(error)

    def _run(self, call: CallProcess, request: Request, options: SandboxOptions) -> Any:
        streams = Streams()
        answer = None
        try:
            answer = call.run(request, options, streams)
            self._last_ended = False
            is_result = answer is not None and answer.kind == messages.RESULT
            # A result that refers to none of the call's memory need not wait for the call's end.
            if answer is None or answer.descriptors or not is_result:
                self._end_call()
            streams.drain()
            if answer is None or not is_result:
                raise _CallFailed(call.error(answer, options))
            most = max(64 << 20, options.memory) + (2 << 20)
            try:
                return outputs.receive(answer, request.segments, most)
            except SandboxError as error:
                raise _CallFailed(error) from error
        finally:
            streams.close()
            if answer is not None:
                answer.close()

    def _end_call(self) -> None:
        """Have the zygote kill all processes of the call."""
        self._control.settimeout(PATIENCE)
        try:
            messages.send(self._control, messages.END)
            if self._reader.read(self._control).kind != messages.ENDED:
                raise ProtocolError("an unexpected answer")
            self._last_ended = True
        except OSError as error:
            raise ProtocolError(f"it did not end its call: {error!r}") from error


class _CallFailed(Exception):
    """The call failed, and all its processes have ended: the sandbox can serve another call."""

    def __init__(self, error: SandboxError) -> None:
        super().__init__()
        self.error = error


def _count(error: SandboxError) -> SandboxError:
    memory = isinstance(error, SandboxMemoryError)
    stats.count(**{"out_of_memory" if memory else "failed": 1})
    return error


def _group(best_effort: bool) -> Cgroup | None:
    try:
        return Cgroup(hierarchies())
    except SandboxUnavailableError as error:
        if not best_effort:
            raise
        warn_once(logger, f"a sandbox has weaker limits, by setrlimit: {error}")
        return None
