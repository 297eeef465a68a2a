"""The messages between a host and a sandbox, in the frames of `zerrow_store.protocol.framing`.

The control connection goes from the host to the zygote, and a connection of its own to the process
of each call. A sandbox is hostile: the host decodes what comes from it into the types below, which
bound every length before anything is built.
"""

import socket
from collections.abc import Sequence
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

from zerrow_store.errors import ProtocolError
from zerrow_store.protocol import framing
from zerrow_store.protocol.fields import SegmentId, Size
from zerrow_store.protocol.framing import Frame

READY = "ready"
"""The zygote waits for orders."""

WARM = "warm"
"""Order: prepare for faster calls."""

FORK = "fork"
"""Order: fork the process of the next call. Its connection comes with the frame."""

END = "end"
"""Order: end the call's processes. The answer is ENDED."""

ENDED = "ended"

STARTED = "started"
"""The process of the next call waits for CALL."""

DESCRIPTORS = "descriptors"
"""Some descriptors of the call that follows: stdout, stderr, and those of its segments."""

CALL = "call"
RESULT = "result"
"""The frame carries the arena's descriptor, if the result lies there."""

FAILURE = "failure"

LONGEST_VALUES = 4 << 20
"""Plain values take up to some 60 times as much memory once they are objects."""

LONGEST_RESULT = 128 << 20
MOST_MESSAGES = 10_000
LONGEST_TEXT = 64 << 10
LONGEST_FRAME = LONGEST_RESULT + (1 << 17)
"""Includes the lengths of all parts."""

Text = Annotated[str, Meta(max_length=LONGEST_TEXT)]


class Call(msgspec.Struct, array_like=True):
    """A call, which the sandbox trusts.

    Attributes
    ----------
    pickle
        Of function, arguments and keywords; persistent ids are indices into `messages`.
    messages
        SIPC messages of the Arrow arguments.
    segments
        Segment id and size of the sealed files that the messages refer to.
    extensions
        Pickles of the extension types of the arguments.
    rlimits
        Limits for `setrlimit`, by the name of the constant.
    """

    pickle: bytes
    messages: list[bytes]
    segments: list[tuple[SegmentId, Size]]
    extensions: list[bytes]
    rlimits: dict[str, int]


class Result(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """A function's result: packed plain values (see `values`), and SIPC messages of Arrow data.

    Attributes
    ----------
    arena
        Segment id and size of the sandbox's arena, or None if no message refers to it.
    """

    arena: tuple[SegmentId, Size] | None
    values: Annotated[bytes, Meta(max_length=LONGEST_VALUES)]
    messages: Annotated[list[bytes], Meta(max_length=MOST_MESSAGES)]


class Failure(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """An exception of the function, as text."""

    type_name: Text
    text: Text
    traceback: Text
    is_memory_error: bool


Message = TypeVar("Message", Call, Result, Failure)


def send(
    connection: socket.socket, kind: str, body: Any = None, descriptors: Sequence[int] = ()
) -> None:
    """Send a message, and wait until the peer has taken it."""
    framing.send(connection, framing.pack(kind, 0, body, len(descriptors)), descriptors)


def decode(frame: Frame, message: type[Message]) -> Message:
    """Return the message in a frame.

    Raises
    ------
    ProtocolError
        The frame is malformed.
    """
    try:
        return msgspec.msgpack.decode(frame.raw, type=message)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ProtocolError(f"malformed {frame.kind}: {error}") from error
