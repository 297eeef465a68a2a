"""The process of one call, inside the sandbox.

The zygote forks it, and it serves one call. It unpickles what comes from the host, which it trusts;
it sends no pickle back (see `values`). Arrow data of the result lies in this process's own arena,
whose descriptor goes to the host with the result.
"""

import contextlib
import io
import os
import pickle
import resource
import socket
import sys
import traceback
from typing import Any, NoReturn

import pyarrow as pa

from zerrow_store import memory
from zerrow_store.config import MemoryConfig
from zerrow_store.native import _native
from zerrow_store.protocol.framing import FrameReader
from zerrow_store.sandbox import messages, values
from zerrow_store.sandbox.messages import Call, Failure, Result

_LONGEST_NAME = 1000
_WARM_LIMIT = 256 << 20


def main(host: socket.socket, limit: int) -> NoReturn:
    """Serve one call over the connection `host`, with `limit` bytes of memory, and exit."""
    messages.send(host, messages.STARTED)
    # All that can be done before the call comes.
    os.setsid()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _allocate_in_arena(limit)
    reader = FrameReader()
    try:
        fds: list[int] = []
        while (frame := reader.read(host)).kind == messages.DESCRIPTORS:
            fds += frame.descriptors
        call = messages.decode(frame, Call)
        _prepare(call, fds)
        answer, arena = _run(call)
        sys.stdout.flush()
        sys.stderr.flush()
        kind = messages.RESULT if isinstance(answer, Result) else messages.FAILURE
        messages.send(host, kind, answer, arena)
        # The host kills this process once it has the result. Until then it must not exit.
        reader.read(host)
    except OSError:
        pass  # the host hung up, and does not want the result
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


def _prepare(call: Call, fds: list[int]) -> None:
    stdout, stderr, *segments = fds
    os.dup2(stdout, 1)
    os.dup2(stderr, 2)
    sys.stdout = io.TextIOWrapper(open(1, "wb", closefd=False), line_buffering=True)  # noqa: SIM115
    sys.stderr = io.TextIOWrapper(open(2, "wb", 0, closefd=False), write_through=True)  # noqa: SIM115
    for name, limit in call.rlimits.items():
        resource.setrlimit(getattr(resource, name), (limit, limit))
    for (segment, size), fd in zip(call.segments, segments, strict=True):
        _native.map_segment(segment, fd, size)
    for fd in fds:
        os.close(fd)


def _run(call: Call) -> tuple[Result | Failure, list[int]]:
    """Return the answer, and the arena's descriptor if the result lies there."""
    try:
        for extension in call.extensions:
            with contextlib.suppress(pa.ArrowKeyError):  # registered by the type's own module
                pa.register_extension_type(pickle.loads(extension))
        function, arguments, keywords = _Unpickler(call).load()
        # Only the function refers to its tables now: it frees what it no longer needs.
        result = function(*arguments, **keywords)
        del arguments, keywords
        encoded: list[_native.Encoded] = []

        def encode(part: Any) -> bytes:
            encoded.append(_native.encode(part))
            return encoded[-1].message

        packed, parts = values.pack(result, encode)
    except BaseException as error:
        return _failure(error), []
    if not any(part.own for part in encoded):
        return Result(None, packed, parts), []
    segment, fd, size = _native.arena_segment()
    return Result((segment, size), packed, parts), [fd]


class _Unpickler(pickle.Unpickler):
    def __init__(self, call: Call) -> None:
        super().__init__(io.BytesIO(call.pickle))
        self._messages = call.messages

    def persistent_load(self, index: Any) -> Any:
        return _native.decode(self._messages[index], None)


def _failure(error: BaseException) -> Failure:
    kind = type(error)
    name = kind.__qualname__
    if kind.__module__ != "builtins":
        name = f"{kind.__module__}.{name}"
    try:
        text = str(error)
    except Exception as unprintable:
        text = f"<its text could not be made: {unprintable!r}>"
    # The first frames are this file's own.
    frames = error.__traceback__.tb_next if error.__traceback__ else None
    trace = "".join(traceback.format_exception(kind, error, frames))
    return Failure(
        _printable(name[:_LONGEST_NAME]),
        _printable(text[: messages.LONGEST_TEXT]),
        _printable(trace[-messages.LONGEST_TEXT :]),
        isinstance(error, MemoryError),
    )


def _printable(text: str) -> str:
    """Replace the surrogates of a text, which no message can carry."""
    return text.encode(errors="replace").decode()
