"""One call inside the sandbox: from the function's pickle to the result frame.

Forked by the zygote for this call only, and ended with it. Pickles come from the host, which is
trusted here; the other way nothing is pickled (see `values`). Arrow data of the result is born in
this process's own arena, whose descriptor goes to the host with the result.
"""

import contextlib
import io
import os
import pickle
import resource
import socket
import struct
import sys
import traceback
from typing import Any, NoReturn

import msgpack
import pyarrow as pa

from zerrow_store import memory
from zerrow_store.config import MemoryConfig
from zerrow_store.native import _native
from zerrow_store.sandbox import channel, values

RESULT, ERROR = b"R", b"E"
_LONGEST_TEXT = 64 << 10
_WARM_LIMIT = 256 << 20


def main(host: socket.socket, limit: int) -> NoReturn:
    """Serve one call over `host`, and end. limit: of memory, in bytes."""
    channel.send(host, b"here")
    # All that can be done before the call comes.
    os.setsid()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _allocate_in_arena(limit)
    # What is behind the function's arguments: descriptors of stdout, stderr and the inputs.
    receiver = channel.Receiver(host, longest=1 << 31, descriptors=channel.MAX_DESCRIPTORS)
    try:
        fds: list[int] = []
        while (order := receiver.wait()) == b"more":
            fds += receiver.take_descriptors()
        fds += receiver.take_descriptors()
        call = msgpack.unpackb(order)
        _prepare(call, fds)
        kind, frame, arena = _run(call)
        sys.stdout.flush()
        sys.stderr.flush()
        channel.send(host, kind + frame, arena)
        # The host ends this process once it has the result; it is not to go by itself before.
        receiver.wait()
    except (EOFError, OSError):
        pass  # the host hung up: nobody wants the result
    finally:
        os._exit(0)


def _allocate_in_arena(limit: int) -> None:
    memory.start(
        MemoryConfig(
            arena_capacity=max(64 << 20, limit),
            warm_limit=min(_WARM_LIMIT, limit),
            decay_ms=500,
            arena_sealable=True,
            kernelzero="off",
        )
    )
    _native.arena_segment()


def _prepare(call: dict[str, Any], fds: list[int]) -> None:
    stdout, stderr, *inputs = fds
    os.dup2(stdout, 1)
    os.dup2(stderr, 2)
    sys.stdout = io.TextIOWrapper(open(1, "wb", closefd=False), line_buffering=True)  # noqa: SIM115
    sys.stderr = io.TextIOWrapper(open(2, "wb", 0, closefd=False), write_through=True)  # noqa: SIM115
    for name, limit in call["rlimits"].items():
        resource.setrlimit(getattr(resource, name), (limit, limit))
    for (segment, size), fd in zip(call["segments"], inputs, strict=True):
        _native.map_segment(segment, fd, size)
    for fd in fds:
        os.close(fd)


def _run(call: dict[str, Any]) -> tuple[bytes, bytes, list[int]]:
    """Return the kind of frame, the frame, and the arena's descriptor if the result lies there."""
    try:
        for extension in call["extensions"]:
            with contextlib.suppress(pa.ArrowKeyError):  # registered by the type's own module
                pa.register_extension_type(pickle.loads(extension))
        function, arguments, keywords = _load(call["call"], call["messages"])
        # The call's tables are the function's alone: it frees what it no longer needs.
        result = function(*arguments, **keywords)
        del arguments, keywords
        encoded: list[_native.Encoded] = []

        def encode(part: Any) -> bytes:
            encoded.append(_native.encode(part))
            return encoded[-1].message

        frame = values.pack(result, encode)
    except BaseException as error:
        return ERROR, _describe(error), []
    own = any(part.own for part in encoded)
    if not own:
        return RESULT, struct.pack("<16sQ", bytes(16), 0) + frame, []
    segment, fd, size = _native.arena_segment()
    return RESULT, struct.pack("<16sQ", segment, size) + frame, [fd]


class _Unpickler(pickle.Unpickler):
    def __init__(self, data: bytes, messages: list[bytes]) -> None:
        super().__init__(io.BytesIO(data))
        self._messages = messages

    def persistent_load(self, index: Any) -> Any:
        return _native.decode(self._messages[index], None)


def _load(call: bytes, messages: list[bytes]) -> Any:
    return _Unpickler(call, messages).load()


def _describe(error: BaseException) -> bytes:
    kind = type(error)
    name = kind.__qualname__ if kind.__module__ == "builtins" else _qualified(kind)
    try:
        text = str(error)
    except Exception as unprintable:
        text = f"<its text could not be made: {unprintable!r}>"
    # The first frames are this file's own.
    frames = error.__traceback__.tb_next if error.__traceback__ else None
    trace = "".join(traceback.format_exception(kind, error, frames))
    packed: bytes = msgpack.packb(
        [name[:1000], text[:_LONGEST_TEXT], trace[-_LONGEST_TEXT:], isinstance(error, MemoryError)],
        unicode_errors="replace",
    )
    return packed


def _qualified(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"
