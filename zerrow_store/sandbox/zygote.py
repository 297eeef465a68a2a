"""The first process of a sandbox: a prepared interpreter that forks a process for each call.

It is process 1 of the PID namespace: no signal from inside reaches it, orphans become its children,
and when it exits the kernel kills every process in the namespace. It exits when the host hangs up,
and on any error. It runs no user code and starts no thread, and no process inside can read its
memory (PR_SET_DUMPABLE). After each call it kills all of the call's processes and empties the
writable directories.

`messages` has the host's orders.
"""

import contextlib
import ctypes
import errno
import functools
import gc
import os
import signal
import socket
import sys
from typing import NoReturn

# Imported before the first call, so that no call pays for it.
import cloudpickle  # noqa: F401
import numpy as np  # noqa: F401
import pyarrow as pa
import pyarrow.compute as pc

from zerrow_store.protocol.framing import FrameReader
from zerrow_store.sandbox import child, messages
from zerrow_store.sandbox.paths import WRITABLE

_PR_SET_DUMPABLE = 4
_libc = ctypes.CDLL(None, use_errno=True)


def main() -> NoReturn:
    control = socket.socket(fileno=int(sys.argv[1]))
    set_dumpable(False)
    reader = FrameReader()
    gc.collect()
    gc.freeze()
    messages.send(control, messages.READY)
    while True:
        try:
            order = reader.read(control)
        except OSError:
            os._exit(0)  # the host is gone; the kernel kills everything else in the namespace
        if order.kind == messages.WARM:
            _warm_up()
        elif order.kind == messages.FORK:
            (call,) = order.take_descriptors(1)
            if os.fork() == 0:
                control.close()
                set_dumpable(True)
                child.main(socket.socket(fileno=call), int(sys.argv[2]))
            os.close(call)
        elif order.kind == messages.END:
            _kill_processes()
            _empty_directories()
            messages.send(control, messages.ENDED)


@functools.cache
def _warm_up() -> None:
    """Do once what the first use of Arrow in every child would do: above all, import pandas.

    Starts no thread. Not done before the first call, which would have to wait for it.
    """
    pc.add(pa.array([1, 2]), 1)
    gc.collect()
    gc.freeze()


def set_dumpable(on: bool) -> None:
    """Set whether processes of the same user may read this one's memory."""
    _libc.prctl(_PR_SET_DUMPABLE, int(on), 0, 0, 0)


def _kill_processes() -> None:
    # The kernel spares process 1. A fork under way fails, as the signal is pending.
    with contextlib.suppress(ProcessLookupError):
        os.kill(-1, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        while True:
            os.wait()


def _empty_directories() -> None:
    for directory in WRITABLE:
        _empty(directory, os.stat(directory).st_dev)


def _empty(directory: str, device: int) -> None:
    """Remove the contents of a directory, except read-only mounts below it."""
    os.chmod(directory, 0o755)  # a call may have revoked its own permissions
    for entry in os.scandir(directory):
        if entry.stat(follow_symlinks=False).st_dev != device:
            continue
        if not entry.is_dir(follow_symlinks=False):
            os.unlink(entry.path)
            continue
        _empty(entry.path, device)
        try:
            os.rmdir(entry.path)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EBUSY):  # a mount lies below
                raise


if __name__ == "__main__":
    main()
