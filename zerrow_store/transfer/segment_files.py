"""The transfer agent's connection to its store: it has segments as open files, mapped nowhere.

What is sent goes from the file to the network; a file that somebody truncates, or a disk that
fails, is an error then, where a mapping gives a signal that ends the process.
"""

import os
from collections.abc import Iterable
from typing import Any

from zerrow_store.errors import ObjectLostError
from zerrow_store.node import messages as m
from zerrow_store.node.client import Allocations, Client, unpacked
from zerrow_store.node.requests import Hold, check_id, moved_places


class SegmentFile:
    """A segment's descriptor, open as long as this is referred to: by whoever sends from it, too.
    A number that is closed too early is another file's soon.
    """

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def __del__(self) -> None:
        os.close(self.fd)


class FileClient(Client):
    """A connection to the store `name`. Raises StoreUnavailableError if none is running."""

    def _begin(self) -> None:
        super()._begin()
        self._files: dict[bytes, SegmentFile] = {}

    def hold_all(self, object_id: bytes) -> tuple[Hold, Allocations]:
        """Return a hold of an object, and its allocations (segment, offset, size).

        Raises ObjectNotFoundError.
        """
        check_id(object_id)
        _, allocations, moved = self._request(m.Get(object_id))
        hold = self._held_by(object_id)
        hold.moved = moved_places(moved)
        return hold, unpacked(allocations)

    def files(self, segment_ids: Iterable[bytes]) -> dict[bytes, SegmentFile]:
        """Return segments' files. Raises ObjectLostError for a segment that is gone."""
        wanted = set(segment_ids)
        self.ensure_segments(wanted)
        try:
            return {segment_id: self._files[segment_id] for segment_id in wanted}
        except KeyError as error:
            raise ObjectLostError(f"segment {error.args[0].hex()} has just gone") from None

    def ensure_segments(self, segment_ids: Iterable[bytes]) -> None:
        """Open segments that are not open yet. Raises ObjectLostError for one that is gone."""
        self._have_sent(set(segment_ids) - self._files.keys())

    def _have_segment(self, segment_id: bytes, fd: int, size: int, *, sealed: bool) -> None:
        self._files[segment_id] = SegmentFile(os.dup(fd))

    def _note(self, kind: str, body: Any) -> None:
        if kind == "segment_gone":
            self._files.pop(body, None)
        super()._note(kind, body)

    def _lose(self) -> None:
        self._files = {}
        super()._lose()
