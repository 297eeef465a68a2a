"""Errors as they travel in a reply.

An error is the name of its class, and what its constructor wants.
"""

from typing import Any

import msgspec

from zerrow_store import errors
from zerrow_store.errors import (
    DecodeError,
    ObjectNotFoundError,
    ProtocolError,
    StoreFullError,
    ZerrowError,
)

_decoder = msgspec.msgpack.Decoder(tuple[str, list[Any]])


def describe(error: ZerrowError) -> list[Any]:
    """Return an error as it travels."""
    if isinstance(error, StoreFullError):
        return ["StoreFullError", [error.needed, error.used, error.budget]]
    if isinstance(error, ObjectNotFoundError):
        return ["ObjectNotFoundError", [error.object_id]]
    if isinstance(error, DecodeError):
        return ["DecodeError", [error.kind, str(error)]]
    return [type(error).__name__, [str(error)]]


def decode_error(body: msgspec.Raw) -> Exception:
    """Return the error that has arrived; a ProtocolError for what describes none."""
    try:
        error = make_error(*_decoder.decode(body))
    except (msgspec.MsgspecError, AttributeError, TypeError, ValueError) as reason:
        return ProtocolError(f"a malformed error: {reason}")
    return error if isinstance(error, ZerrowError) else ProtocolError("an error of no known class")


def make_error(name: str, arguments: list[Any]) -> Exception:
    """Return the error that a reply describes."""
    cls = getattr(errors, name)
    if cls is StoreFullError:
        needed, used, budget = arguments
        return StoreFullError(needed=needed, used=used, budget=budget)
    error: Exception = cls(*arguments)
    return error
