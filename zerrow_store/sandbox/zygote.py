"""The first process of a sandbox: a prepared interpreter that forks a child for each call.

It is process 1 of the PID namespace: signals from inside do not reach it, orphans become its
children, and when it ends the kernel ends everything in the namespace. It ends when the host hangs
up, in whatever way. It runs no code of the user's, starts no thread, and no process inside can look
into it (PR_SET_DUMPABLE). After each call it kills whatever the call left and empties the
directories that can be written.

Frames from the host: "fork" with a socket for the call, answered by the child over that socket;
"warm", to be ready for quicker calls; "end", answered when nothing of the call is left.
"""

import contextlib
import ctypes
import functools
import gc
import os
import shutil
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
        for entry in os.scandir(directory):
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path, onerror=_make_removable)
            else:
                os.unlink(entry.path)


def _make_removable(function: object, path: str, error: object) -> None:
    """Remove what a call has taken its own permissions from."""
    os.chmod(os.path.dirname(path), 0o700)
    os.chmod(path, 0o700)
    if os.path.isdir(path):
        shutil.rmtree(path)
    else:
        os.unlink(path)


if __name__ == "__main__":
    main()
