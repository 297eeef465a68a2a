"""Fetching of columns: from the cache, or by decoding.

A read decodes the columns that the store granted it, publishes them, and only then waits for
columns that others decode, so reads never wait for each other in a circle. Columns that the store
does not take, because it is full or gone, are the read's alone; a read never fails for that. A file
that changes meanwhile is neither cached nor returned.
"""

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NoReturn

import pyarrow as pa

from zerrow_store.client.client import Client
from zerrow_store.client.decode_cache import CacheHit, DecodedColumn
from zerrow_store.decache.files import OpenFile
from zerrow_store.decache.parts import Chunks, Parts
from zerrow_store.decache.store import warn_uncached
from zerrow_store.errors import DecodeError, ZerrowError
from zerrow_store.native import _native
from zerrow_store.protocol.fields import Unit

logger = logging.getLogger("zerrow_store")

_TURNS = 8

Wanted = Mapping[Unit, Sequence[int]]
"""Parts by unit; see `zerrow_store.server.decode_cache_index`."""

Decoded = dict[Unit, dict[int, Chunks]]
"""Decoded chunks by unit and part."""

Fetched = dict[Unit, Parts]

Decode = Callable[[Wanted], Decoded]


class DecodeFailedError(Exception):
    """Decoding failed because of the file's contents.

    Attributes
    ----------
    errors
        By (unit, part).
    """

    def __init__(self, errors: Mapping[tuple[Unit, int], Exception]) -> None:
        super().__init__(str(next(iter(errors.values()))))
        self.errors = errors


def fetch(client: Client | None, file: OpenFile, wanted: Wanted, decode: Decode) -> Fetched:
    """Return parts of a file, from the cache or from `decode`.

    Parameters
    ----------
    client
        The connection to the store; None to decode without the cache.
    file
        The open file.
    wanted
        Units and their parts.
    decode
        Decodes parts that the cache lacks.

    Raises
    ------
    pyarrow.ArrowException, OSError
        The file cannot be decoded, by this reader or another one.
    FileChangedError
        The file changed meanwhile.
    """
    fetched: Fetched = {unit: Parts() for unit in wanted}
    if client is not None and file.identity is not None:
        try:
            _Read(client, file, file.identity, decode).run(wanted, fetched)
        except DecodeError as error:
            _raise_as_decoder_did(error)
        except (ZerrowError, _native.SipcError) as error:
            warn_uncached(error)
    missing = {
        unit: [part for part in parts if part not in fetched[unit]]
        for unit, parts in wanted.items()
    }
    if missing := {unit: parts for unit, parts in missing.items() if parts}:
        _add(fetched, _decode(file, missing, decode))
    return fetched


def _decode(file: OpenFile, wanted: Wanted, decode: Decode) -> Decoded:
    """Decode without the cache."""
    try:
        decoded = decode(wanted)
    except DecodeFailedError as failure:
        file.check_unchanged()
        raise next(iter(failure.errors.values())) from None
    file.check_unchanged()
    return decoded


class _Read:
    """One read of a file through the cache. Its claims at the store carry its `token`.

    A reader that may use all processors takes everything at once. One that may not, as in a Ray
    task, takes its columns in turns, so that simultaneous readers of the same columns share the
    work.
    """

    def __init__(self, client: Client, file: OpenFile, identity: bytes, decode: Decode) -> None:
        self._turns = 1 if pa.cpu_count() >= len(os.sched_getaffinity(0)) else _TURNS
        self._client = client
        self._file = file
        self._identity = identity
        self._decode = decode
        self._token = os.urandom(8)

    def run(self, wanted: Wanted, fetched: Fetched) -> None:
        """Add all wanted parts to `fetched`."""
        try:
            self._run(wanted, fetched)
        except BaseException:  # from any step: other readers wait for this one's claims
            self._client.decode_cache.release(self._token)
            raise

    def _run(self, wanted: Wanted, fetched: Fetched) -> None:
        missing = [(unit, list(parts)) for unit, parts in wanted.items()]
        most = -(-len(missing) // self._turns)
        while missing:
            with self._progress(len(missing)):
                answer = self._client.decode_cache.open(
                    self._token, self._identity, self._file.path, missing, most
                )
            granted = {missing[index][0]: parts for index, parts in answer.granted}
            self._take(answer.hits, missing, fetched)
            if granted:
                self._decode_and_publish(granted, fetched)
            missing = [(missing[index][0], parts) for index, parts, _ in answer.later]

    def _take(
        self, hits: list[CacheHit], missing: list[tuple[Unit, list[int]]], fetched: Fetched
    ) -> None:
        for hit in hits:
            column = self._client.decode(hit.message, hit.hold, hit.moved)
            fetched[missing[hit.index][0]].add(column, hit.layout, hit.parts)

    def _decode_and_publish(self, granted: Wanted, fetched: Fetched) -> None:
        started = time.monotonic()
        try:
            decoded = self._decode(granted)
        except DecodeFailedError as failure:
            self._file.check_unchanged()
            for (unit, part), error in failure.errors.items():
                self._client.decode_cache.fail(self._token, self._identity, [(unit, [part])], error)
            raise next(iter(failure.errors.values())) from None
        self._file.check_unchanged()
        self._publish(decoded, time.monotonic() - started, fetched)

    def _publish(self, decoded: Decoded, seconds: float, fetched: Fetched) -> None:
        """Publish decoded columns, and fetch them: views of those that the store took."""
        encoded = self._encode(decoded)
        total = max(1, sum(map(_size, encoded.values())))
        columns = [
            DecodedColumn(
                unit,
                [[part, len(chunks)] for part, chunks in decoded[unit].items()],
                seconds * _size(message) / total,
                os.urandom(16),
                message,
            )
            for unit, message in encoded.items()
        ]
        try:
            holds = self._client.decode_cache.publish(
                self._token, self._identity, self._file.path, columns
            )
        except ZerrowError as error:
            warn_uncached(error)
            _add(fetched, decoded)
            return
        if len(columns) < len(decoded):
            self._client.decode_cache.release(self._token)
        taken = [(c, hold) for c, hold in zip(columns, holds, strict=True) if hold is not None]
        self._client.ensure_segments(
            {s for c, _ in taken for s in _native.message_segments(c.encoded.message)}
        )
        for column, hold in taken:
            view = _native.decode(column.encoded.message, hold)
            fetched[column.unit].add(view, column.layout, decoded.pop(column.unit))
        _add(fetched, decoded)

    def _encode(self, decoded: Decoded) -> dict[Unit, _native.Encoded]:
        """Encode the columns that can be encoded."""
        encoded: dict[Unit, _native.Encoded] = {}
        try:
            for unit, parts in decoded.items():
                data = pa.chunked_array([chunk for chunks in parts.values() for chunk in chunks])
                try:
                    encoded[unit] = _native.encode(data, move=True)
                except (ValueError, MemoryError) as error:
                    # Arrow's schema message cannot describe the type; or the arena is full.
                    logger.debug("%s of %s is not cached: %s", unit[1], self._file.path, error)
        except BaseException:
            self._client.discard(encoded.values())
            raise
        return encoded

    @contextlib.contextmanager
    def _progress(self, columns: int) -> Iterator[None]:
        """Log every second, at debug level, that the read waits for others."""
        if not logger.isEnabledFor(logging.DEBUG):
            yield
            return
        over = threading.Event()

        def report() -> None:
            started = time.monotonic()
            while not over.wait(1.0):
                logger.debug(
                    "%s: waiting for %d columns that others decode, %.0f s so far",
                    self._file.path,
                    columns,
                    time.monotonic() - started,
                )

        thread = threading.Thread(target=report, name="zerrow-progress", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()


def _size(encoded: _native.Encoded) -> int:
    # Not pyarrow's nbytes, which crashes for empty arrays without offsets.
    return encoded.bytes_shared + encoded.bytes_reshared + encoded.bytes_copied


def _add(fetched: Fetched, decoded: Decoded) -> None:
    for unit, parts in decoded.items():
        fetched[unit].add_chunks(parts)


def _raise_as_decoder_did(error: DecodeError) -> NoReturn:
    cls = getattr(pa.lib, error.kind, None)
    if error.kind == "OSError":
        raise OSError(str(error)) from None
    if isinstance(cls, type) and issubclass(cls, pa.ArrowException):
        raise cls(str(error)) from None
    raise error
