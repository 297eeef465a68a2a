"""The put or result that a thread serializes, with the objects published for it so far."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from zerrow_ray.kinds import Kind
from zerrow_ray.ray_compat import Purpose
from zerrow_ray.travelling import Travelling

if TYPE_CHECKING:
    from zerrow_store.client.publications import Publication


@dataclass(frozen=True)
class Published:
    """A value inside of a put, which the store takes while the rest is pickled."""

    publication: "Publication"
    value: Any
    kind: Kind


@dataclass
class Serialization:
    """One put or result on its way through the pickler.

    published: the published values of a put, by object id.
    buffers: the object of a put with the buffers of its frames.
    travelling: the objects that were published for it.
    frames_open: how many frames the pickler is inside of.
    bytes_stored: the bytes of everything that was published.
    """

    purpose: Purpose
    published: dict[bytes, Published] = field(default_factory=dict)
    buffers: bytes | None = None
    travelling: Travelling | None = None
    frames_open: int = 0
    bytes_stored: int = 0

    def object_ids(self) -> list[bytes]:
        """Return the ids of a put's objects."""
        return [*self.published, *([] if self.buffers is None else [self.buffers])]


class _Thread(threading.local):
    current: Serialization | None = None
    put: list[bytes] | None = None


_thread = _Thread()


def current() -> Serialization:
    """Return what this thread serializes, for code that runs inside of the pickler."""
    assert _thread.current is not None
    return _thread.current


@contextmanager
def serializing(purpose: Purpose) -> Iterator[Serialization]:
    """Begin a put or result. They nest: an object's own reducer may put another object."""
    outer, _thread.current = _thread.current, Serialization(purpose)
    try:
        yield _thread.current
    finally:
        _thread.current = outer


@contextmanager
def putting() -> Iterator[list[bytes]]:
    """Begin a `ray.put`; yield the list of the objects that it publishes, which grows."""
    outer, _thread.put = _thread.put, []
    try:
        yield _thread.put
    finally:
        _thread.put = outer


def add_to_put(object_ids: list[bytes]) -> None:
    """Add objects to the put under way in this thread."""
    assert _thread.put is not None
    _thread.put += object_ids
