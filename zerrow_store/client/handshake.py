"""The handshake: the first requests on a new connection, before a thread reads from it."""

import contextlib
import logging
import socket
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from zerrow_store.client.listener import Call
from zerrow_store.errors import StoreUnavailableError, ZerrowError
from zerrow_store.protocol import framing, messages, notices, sockets
from zerrow_store.protocol import messages as m
from zerrow_store.protocol.wire_errors import decode_error

logger = logging.getLogger("zerrow_store")

_PATIENCE_SECONDS = 15.0
_REQUEST_ID = 0xFFFFFFFF


@contextlib.contextmanager
def handshake(
    name: str, note: Callable[[notices.Notice], None]
) -> Iterator[tuple[socket.socket, framing.FrameReader, Call]]:
    """Connect to the store `name`; yield the socket, its reader, and a function that sends a
    request and waits for its reply. The caller keeps the socket and the reader. They are closed if
    anything is raised.

    note: called with the notices that arrive in between. Raises StoreUnavailableError in place of
    any error.
    """
    connection = sockets.connect(name)
    reader = framing.FrameReader()

    def call(request: m.Request, fds: Iterable[int] = ()) -> Any:
        sent = list(fds)
        framing.send(connection, framing.pack(request.kind, _REQUEST_ID, request, len(sent)), sent)
        while True:
            answer = reader.read(connection)
            if answer.kind == "reply":
                return messages.decode_reply(request, answer.raw)
            if answer.kind == "error":
                raise decode_error(answer.raw)
            note(notices.decode(answer.kind, answer.raw))

    try:
        connection.settimeout(_PATIENCE_SECONDS)
        yield connection, reader, call
    except Exception as error:
        if not isinstance(error, OSError | ZerrowError):
            logger.exception("the greeting of the store %s failed", name)
        reader.close()
        connection.close()
        raise StoreUnavailableError(f"the store {name!r} does not answer: {error}") from error
