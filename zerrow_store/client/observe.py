"""The requests of an observer, which has no pyarrow, no arena, no holds.

An observer does not count as a user: it does not keep an unused store from ending.
"""

from collections.abc import Sequence
from typing import Any

from zerrow_store.errors import ProtocolError, StoreUnavailableError
from zerrow_store.protocol import framing, sockets
from zerrow_store.protocol import messages as m
from zerrow_store.protocol.reports import StoreStats
from zerrow_store.protocol.wire_errors import decode_error

_PATIENCE_SECONDS = 15.0


def observe(name: str) -> StoreStats:
    """Return the figures of the store `name`. Raises StoreUnavailableError."""
    stats = ask(name, m.Stats())
    assert isinstance(stats, StoreStats)
    return stats


def segment_files(name: str, segment_ids: Sequence[bytes]) -> list[int]:
    """Return descriptors of segments of the store `name`, open for reading. The caller closes them.

    Raises StoreUnavailableError, ObjectLostError for a segment that is gone, and ProtocolError if
    one frame cannot have so many descriptors.
    """
    frame, _ = _exchange(name, m.Segments(list(segment_ids)))
    return frame.take_descriptors(len(segment_ids))


def ask(name: str, request: m.Request) -> Any:
    """Return the store's reply to a request, which is sent over a new connection.

    Raises StoreUnavailableError, and the errors of the request.
    """
    _, reply = _exchange(name, request)
    return reply


def _exchange(name: str, request: m.Request) -> tuple[framing.Frame, Any]:
    reader = framing.FrameReader()
    with sockets.connect(name) as connection:
        connection.settimeout(_PATIENCE_SECONDS)
        try:
            for each in (m.Hello(framing.PROTOCOL_VERSION, "observer"), request):
                framing.send(connection, framing.pack(each.kind, 1, each))
                answer = reader.read(connection)
                while not answer.request_id:  # a notice, which is for clients
                    answer = reader.read(connection)
                if answer.kind == "error":
                    raise decode_error(answer.raw)
                reply = m.decode_reply(each, answer.raw)
        except (OSError, ProtocolError) as error:
            raise StoreUnavailableError(f"the store {name!r} does not answer: {error}") from error
    return answer, reply
