"""Reading a large object from the place that its source names, see `tracker`.

Other machines may be reading it at the same time. A copy that cannot be read is no error: the
source then names another place, at last itself. The object is lost if the source cannot send it.
"""

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

from zerrow_store.errors import ObjectLackingError, ObjectLostError, ProtocolError
from zerrow_store.transfer import messages as m
from zerrow_store.transfer.channel import WORKING_SECONDS, Channel, connect
from zerrow_store.transfer.security import Security

logger = logging.getLogger("zerrow_store.transfer")

T = TypeVar("T")

LEAST_BYTES = 16 << 20
"""The size from which asking the source first is worth another connection."""

_MOST_COPIES = 8
"""After so many unreadable copies, read from the source whatever it names: it may be lying."""


def seek(
    source: str,
    security: Security,
    object_id: bytes,
    read: Callable[[str], T],
    *,
    served_at: str,
) -> T:
    """Read an object, from its source or from a copy; return the result of `read`.

    read: reads the object at a location and returns what holds it here, or raises ObjectLostError.
    Its result is kept as long as other machines want the object, as far as the source knows.
    served_at: where this machine serves copies; empty if it does not. Raises ObjectLostError if the
    source is gone, or cannot send the object.
    """
    with contextlib.ExitStack() as stack:
        try:
            channel = stack.enter_context(connect(source, security))
            channel.send(m.Seek(object_id, served_at))
            landed = _read_as_told(channel, source, read)
        except (OSError, ProtocolError) as error:
            raise ObjectLostError(
                f"object {object_id.hex()} could not be fetched from {source}: {error}"
            ) from error
        threading.Thread(
            target=_keep, args=[channel, landed], name="zerrow-keep", daemon=True
        ).start()
        stack.pop_all()
    return landed


def _keep(channel: Channel, landed: object) -> None:
    """Keep a landed object for other machines to read, until the source hangs up or is gone."""
    with channel, contextlib.suppress(OSError, ProtocolError):
        channel.send(m.Tried(True))
        while True:
            channel.receive(m.PLACE)


def _read_as_told(channel: Channel, source: str, read: Callable[[str], T]) -> T:
    for _ in range(_MOST_COPIES):
        location = _told(channel)
        if not location:
            break
        try:
            with _saying_so(channel):
                return read(location)
        except ObjectLostError as error:
            # Log only the text: the error refers to frames, and these refer to the memory.
            logger.warning("a copy cannot be read: %s", str(error))
        channel.send(m.Tried(False))
    with _saying_so(channel):
        return read(source)


def _told(channel: Channel) -> str:
    answer = channel.receive(m.PLACE)
    while isinstance(answer, m.Working):
        answer = channel.receive(m.PLACE)
    if isinstance(answer, m.Refused):
        raise (ObjectLackingError if answer.is_lacking else ProtocolError)(answer.reason)
    return answer.location


@contextlib.contextmanager
def _saying_so(channel: Channel) -> Iterator[None]:
    """Send `Working` now and then while the block runs, which may send nothing itself."""
    done = threading.Event()

    def say() -> None:
        with contextlib.suppress(OSError):  # the source is gone: a copy may still be readable
            while not done.wait(WORKING_SECONDS):
                channel.send(m.Working())

    thread = threading.Thread(target=say, name="zerrow-seek", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
