"""The fork guard: a connection that keeps holds for a forked child.

A child inherits the views of its parent, so their objects must be held as long as the child lives.
But the parent's holds end with the parent's connection. So before a fork, if the parent holds
anything, a connection is made that holds the same objects, and only the child keeps it. It ends
with the child, or when the child executes another program. It does not outlive the store: after a
restart, only the parent holds the objects of inherited views.
"""

import contextlib
import logging
import os
import socket
import weakref
from collections import Counter
from typing import Protocol

from zerrow_store import forks
from zerrow_store.client.holds import Holds
from zerrow_store.errors import ZerrowError
from zerrow_store.protocol import framing, sockets
from zerrow_store.protocol import messages as m

logger = logging.getLogger("zerrow_store")

# How long a fork waits for a store that hangs.
_PATIENCE_SECONDS = 5.0


class Guarded(Protocol):
    """A connection of the process `pid`, as a fork sees it."""

    name: str
    pid: int
    holds: Holds

    @property
    def closed(self) -> bool: ...

    def begin_in_child(self) -> None:
        """Begin anew, without the parent's connection."""


connections: "weakref.WeakSet[Guarded]" = weakref.WeakSet()
"""The connections of this process."""

_guards: list[socket.socket] = []
_kept: list[socket.socket] = []


def _guard(name: str, held: Counter[bytes]) -> None:
    """Before a fork, make a connection to the store `name` that holds these objects."""
    connection = None
    try:
        connection = sockets.connect(name)
        connection.settimeout(_PATIENCE_SECONDS)
        frames = [framing.pack("hello", 1, m.Hello(framing.PROTOCOL_VERSION, "client"))]
        frames += [framing.pack("hold", 1, m.Hold(object_id)) for object_id in held]
        connection.sendall(b"".join(frames))
        reader = framing.FrameReader()
        answers = 0
        while answers < len(frames):
            answers += reader.read(connection).kind in ("reply", "error")
    except (OSError, ZerrowError) as error:
        logger.warning("a forked child's views of the store %s are not held: %s", name, error)
        if connection is not None:
            connection.close()
    else:
        _guards.append(connection)


def _release_guards() -> None:
    """Close the guards in the parent after the fork: they belong to the child."""
    while _guards:
        with contextlib.suppress(OSError):
            _guards.pop().close()


def _before_fork() -> None:
    for connection in list(connections):
        held = connection.holds.counts()
        if connection.pid == os.getpid() and not connection.closed and held:
            _guard(connection.name, held)


def _in_child() -> None:
    _kept.extend(_guards)  # they stay open until it ends
    _guards.clear()
    for connection in list(connections):
        connection.begin_in_child()


forks.register(before=_before_fork, in_parent=_release_guards, in_child=_in_child)
