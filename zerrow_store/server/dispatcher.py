"""Requests, from the frame to the effect that answers them. There are no sockets here."""

from collections.abc import Callable
from typing import Any

from zerrow_store.errors import ProtocolError
from zerrow_store.protocol import messages
from zerrow_store.protocol.framing import Frame
from zerrow_store.server.connection import DEFERRED, Call, Connection
from zerrow_store.server.effects import Effects

Handler = Callable[[Call, Any], Any]
"""Carries out a request; returns its reply, or DEFERRED. An exception becomes the error reply."""


class Dispatcher:
    """Has requests carried out by the handlers of their types."""

    def __init__(self, handlers: dict[type[messages.Request], Handler], effects: Effects) -> None:
        self._handlers = handlers
        self._effects = effects

    def dispatch(self, connection: Connection, frame: Frame) -> None:
        """Carry out the request in a frame, and close the descriptors that its handler has left.

        Raises
        ------
        ProtocolError
            For what ends the connection: something else than a greeting came first.
        """
        try:
            if not (connection.greeted or frame.kind == messages.Hello.kind):
                raise ProtocolError(f"the first request is {frame.kind!r}, not 'hello'")
            call = Call(connection, frame.kind, frame.request_id, frame.descriptors)
            try:
                reply = self._handle(call, frame)
            except Exception as error:
                self._effects.refuse(call, error)
                return
            if reply is not DEFERRED:
                self._effects.reply(call, reply)
        finally:
            frame.close()

    def _handle(self, call: Call, frame: Frame) -> Any:
        request = messages.decode(frame.kind, frame.raw)
        if len(frame.descriptors) != request.descriptors:
            wanted, came = request.descriptors, len(frame.descriptors)
            raise ProtocolError(f"{frame.kind!r} needs {wanted} descriptors; {came} came")
        return self._handlers[type(request)](call, request)
