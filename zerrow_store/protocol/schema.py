"""Decoding of messages that each have a kind: strictly, by one type for each kind."""

from collections.abc import Iterable
from typing import ClassVar, Generic, TypeVar

import msgspec

from zerrow_store.errors import ProtocolError


class Message(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """What is sent in a frame of its kind: an array of its fields, no more and no less."""

    kind: ClassVar[str]


M = TypeVar("M", bound=Message)


class Schema(Generic[M]):
    """The messages of one direction, by kind."""

    def __init__(self, types: Iterable[type[M]]) -> None:
        self.types = {each.kind: each for each in types}
        self._decoders = {kind: msgspec.msgpack.Decoder(each) for kind, each in self.types.items()}

    def decode(self, kind: str, body: msgspec.Raw) -> M:
        """Return a message.

        Raises
        ------
        ProtocolError
            If its kind is unknown, or it is not what that kind has to be.
        """
        if kind not in self._decoders:
            raise ProtocolError(f"unknown message {kind!r}")
        try:
            return self._decoders[kind].decode(body)
        except msgspec.MsgspecError as error:
            raise ProtocolError(f"a malformed {kind!r}: {error}") from None
