"""Requests whose replies give holds."""

from zerrow_store.client.connection import Connection
from zerrow_store.client.holds import Hold
from zerrow_store.client.requests import Request
from zerrow_store.protocol import framing
from zerrow_store.protocol import messages as m
from zerrow_store.protocol.fields import Moves
from zerrow_store.protocol.places import moved_places
from zerrow_store.protocol.replies import Found


class Holding:
    """A hold that was asked for. It keeps the object once `confirm` has returned."""

    def __init__(self, connection: Connection, request: Request, hold: Hold) -> None:
        self._connection = connection
        self._request = request
        self.hold = hold

    def confirm(self) -> None:
        """Wait for the store's reply. Raises ObjectNotFoundError if the object cannot be held."""
        self._connection.wait(self._request)


class GivingRequest(Request):
    """A request whose reply gives holds, which the connection counts."""

    def __init__(self, message: m.Request, connection: Connection) -> None:
        super().__init__(message)
        self._connection = connection


class GetRequest(GivingRequest):
    message: m.Get

    def replied(self, reply: Found, frame: framing.Frame) -> tuple[Found, Hold]:
        return reply, self._connection.holds.confirm(self.message.object_id)


class HoldRequest(GivingRequest):
    message: m.Hold

    def __init__(self, message: m.Hold, connection: Connection) -> None:
        super().__init__(message, connection)
        self.hold = Hold()

    def replied(self, reply: Moves, frame: framing.Frame) -> Hold:
        hold = self._connection.holds.confirm(self.message.object_id, self.hold)
        hold.moved = moved_places(reply)
        return hold
