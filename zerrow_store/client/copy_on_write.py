"""Writable copies of Arrow data, made page by page when they are written to.

Data in a segment is mapped once more, privately. A page is copied when it is first written to, and
writes reach neither the segment nor any other view of it. Data elsewhere is copied at once.
"""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from zerrow_store.client.observe import segment_files
from zerrow_store.errors import ZerrowError
from zerrow_store.native import _native
from zerrow_store.protocol.framing import MAX_DESCRIPTORS
from zerrow_store.protocol.places import Place

_LEAST_MAPPED = 256 << 10
"""Smaller buffers are copied: mapping them, and the page faults of reading them, takes longer."""


def writable(buffers: Sequence[pa.Buffer], store: str | None) -> list[Any]:
    """Return writable objects with the buffer protocol that have the same bytes.

    store: the name of the store that has the segments, if there is one. A mapped result keeps its
    buffer alive.
    """
    places = [_native.locate(b) if b.size >= _LEAST_MAPPED else None for b in buffers]
    files = _open_files({place[0] for place in places if place is not None}, store)
    try:
        return [_writable(*each, files) for each in zip(buffers, places, strict=True)]
    finally:
        for fd in files.values():
            os.close(fd)


def _writable(buffer: pa.Buffer, place: Place | None, files: dict[bytes, int]) -> Any:
    if place is None or place[0] not in files:
        # NumPy's memory, because arrays made of it may be published and written to afterwards.
        return np.frombuffer(buffer, np.uint8).copy()
    segment, offset = place
    return _native.map_privately(buffer, files[segment], offset)


def _open_files(segments: set[bytes], store: str | None) -> dict[bytes, int]:
    """Return the segments' descriptors. Segments that are not available are left out."""
    if not segments:
        return {}
    own_id, own, _ = _native.arena_segment()
    others = sorted(segments - {own_id})
    files = {own_id: os.dup(own)} if own_id in segments else {}
    try:
        if others and store is not None:
            for start in range(0, len(others), MAX_DESCRIPTORS):
                ids = others[start : start + MAX_DESCRIPTORS]
                files |= zip(ids, segment_files(store, ids), strict=True)
    except ZerrowError:
        pass  # segments of another store, or of one that has begun anew
    return files
