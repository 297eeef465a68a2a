"""Reading an object that other machines may want at the same time: at the place that its source
names, see `tracker`.

A copy that cannot be read is no error: the source names another place, itself at the last. An
object that the source itself cannot send is lost.
"""

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

from zerrow_store.errors import ObjectLostError, ProtocolError
from zerrow_store.transfer import messages as m
from zerrow_store.transfer.channel import WORKING_SECONDS, Channel, connect
from zerrow_store.transfer.security import Security

logger = logging.getLogger("zerrow_store.transfer")

T = TypeVar("T")

LEAST_BYTES = 16 << 20
"""The size from which on asking first is worth a connection more."""

_MOST_COPIES = 8
"""After so many copies that cannot be read, the source is read whatever it names: it may lie."""


def seek(
    source: str,
    security: Security,
    object_id: bytes,
    read: Callable[[str], T],
    *,
    served_at: str,
) -> T:
    """Have an object read, at its source or from a copy; return what `read` does.

    read: reads it at a location and returns what holds it here, or raises ObjectLostError. That is
    kept as long as the source knows of others who want the object. served_at: where this machine
    serves copies; empty: nowhere. Raises ObjectLostError if the source is gone, or if the object
    cannot be read there.
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
    """Keep what has landed, for others to read it, until the source hangs up or is gone."""
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
            # A text: the error refers to frames, and these to the memory.
            logger.warning("a copy cannot be read: %s", str(error))
        channel.send(m.Tried(False))
    with _saying_so(channel):
        return read(source)


def _told(channel: Channel) -> str:
    answer = channel.receive(m.PLACE)
    while isinstance(answer, m.Working):
        answer = channel.receive(m.PLACE)
    if isinstance(answer, m.Refused):
        raise ProtocolError(answer.reason)
    return answer.location


@contextlib.contextmanager
def _saying_so(channel: Channel) -> Iterator[None]:
    """Say that this end is at work, as long as it is. Nothing else may be sent meanwhile."""
    done = threading.Event()

    def say() -> None:
        with contextlib.suppress(OSError):  # the source is gone: what is read may be a copy
            while not done.wait(WORKING_SECONDS):
                channel.send(m.Working())

    thread = threading.Thread(target=say, name="zerrow-seek", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
