"""A store's figures, and asking for them without being a client: no pyarrow, no arena, no holds."""

from zerrow_store.errors import ProtocolError, StoreUnavailableError
from zerrow_store.protocol import framing, messages, sockets
from zerrow_store.protocol import messages as m
from zerrow_store.protocol.reports import StoreStats
from zerrow_store.protocol.wire_errors import decode_error

_PATIENCE_SECONDS = 15.0


def observe(name: str) -> StoreStats:
    """Return the figures of the store `name`, over a connection of their own. An observer is no
    user: it does not keep an unused store from ending.

    Raises StoreUnavailableError.
    """
    reader = framing.FrameReader()
    with sockets.connect(name) as connection:
        connection.settimeout(_PATIENCE_SECONDS)
        try:
            for request in (m.Hello(framing.PROTOCOL_VERSION, "observer"), m.Stats()):
                framing.send(connection, framing.pack(request.kind, 1, request))
                answer = reader.read(connection)
                if answer.kind == "error":
                    raise decode_error(answer.raw)
                reply = messages.decode_reply(request, answer.raw)
        except (OSError, ProtocolError) as error:
            raise StoreUnavailableError(f"the store {name!r} does not answer: {error}") from error
    assert isinstance(reply, StoreStats)
    return reply
