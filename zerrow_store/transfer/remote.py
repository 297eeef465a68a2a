"""Requests to another machine's store, by way of its transfer agent."""

from typing import Any

import msgspec

from zerrow_store.errors import ObjectLostError, ProtocolError
from zerrow_store.protocol.messages import REQUESTS, Report
from zerrow_store.transfer import messages as m
from zerrow_store.transfer.channel import connect
from zerrow_store.transfer.messages import Decoder, M
from zerrow_store.transfer.security import Security


def report(location: str, security: Security, what: Report) -> Any:
    """Return a report of the store whose agent serves at `location`.

    Raises ObjectLostError if that machine does not answer, or is of another version.
    """
    figures = _ask(location, security, m.Figures(what), m.FIGURED).figures
    try:
        return msgspec.convert(figures, REQUESTS[what].reply, builtin_types=(bytes,))
    except msgspec.ValidationError as error:
        raise ObjectLostError(f"the machine at {location} is of another version: {error}") from None


def ahead(location: str, security: Security, object_ids: list[bytes], *, spill: bool) -> None:
    """Have objects spilled, or read back, ahead of need: see `Client.spill_ahead`.

    Raises ObjectLostError if that machine does not answer.
    """
    _ask(location, security, m.Ahead(spill, object_ids), m.DONE)


def _ask(location: str, security: Security, message: m.Message, answer: Decoder[M]) -> M:
    try:
        with connect(location, security) as channel:
            channel.send(message)
            return channel.receive(answer)
    except (OSError, ProtocolError) as error:
        raise ObjectLostError(f"the machine at {location} does not answer: {error}") from error
