"""The first process of a sandbox: a prepared interpreter that forks a child for each call.

It is process 1 of the PID namespace: signals from inside do not reach it, orphans become its
children, and when it ends the kernel ends everything in the namespace. It ends when the host hangs
up, in whatever way, and when something goes wrong here. It runs no code of the user's, starts no
thread, and no process inside can look into it (PR_SET_DUMPABLE). After each call it kills whatever
the call left and empties the directories that can be written.

Frames from the host: "fork" with a socket for the call, answered by the child over that socket;
"warm", to be ready for quicker calls; "end", answered when nothing of the call is left.
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

from zerrow_store.sandbox import channel, child
from zerrow_store.sandbox.paths import WRITABLE

READY, WARM, FORK, END, ENDED = b"ready", b"warm", b"fork", b"end", b"ended"

_PR_SET_DUMPABLE = 4
_libc = ctypes.CDLL(None, use_errno=True)


def main() -> NoReturn:
    control = socket.socket(fileno=int(sys.argv[1]))
    set_dumpable(False)
    receiver = channel.Receiver(control, longest=64, descriptors=1)
    gc.collect()
    gc.freeze()
    channel.send(control, READY)
    while True:
        try:
            order = receiver.wait()
        except (EOFError, OSError):
            os._exit(0)  # the host is gone, and with this process all that it started
        if order == WARM:
            _warm_up()
        elif order == FORK:
            # With this order only: a descriptor may have come with the order before it.
            (call,) = receiver.take_descriptors()
            if os.fork() == 0:
                control.close()
                set_dumpable(True)
                child.main(socket.socket(fileno=call), int(sys.argv[2]))
            os.close(call)
        elif order == END:
            _end_processes()
            _empty_directories()
            channel.send(control, ENDED)


@functools.cache
def _warm_up() -> None:
    """Do once what the first use of Arrow in every child would do again: above all, pyarrow
    imports pandas. Starts no thread. Not before the first call, which would have to wait."""
    pc.add(pa.array([1, 2]), 1)
    gc.collect()
    gc.freeze()


def set_dumpable(on: bool) -> None:
    """Say whether processes of the same user may look into this one."""
    _libc.prctl(_PR_SET_DUMPABLE, int(on), 0, 0, 0)


def _end_processes() -> None:
    # Process 1 is spared by the kernel; a fork under way fails, as the signal is pending.
    with contextlib.suppress(ProcessLookupError):
        os.kill(-1, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        while True:
            os.wait()


def _empty_directories() -> None:
    for directory in WRITABLE:
        _empty(directory, os.stat(directory).st_dev)


def _empty(directory: str, device: int) -> None:
    """Remove what lies here, but for what is mounted below: that is read-only, and stays."""
    os.chmod(directory, 0o755)  # a call may have taken its own permissions away
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
            if error.errno not in (errno.ENOTEMPTY, errno.EBUSY):  # it holds such a mount
                raise


if __name__ == "__main__":
    main()
