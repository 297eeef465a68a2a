"""The pickling of puts and results, with tables and frames by reference.

One pickler sees the whole object, so everything in it is pickled as by Ray: by cloudpickle, with
users' serializers, and with references counted. A table becomes a message in the stream. The
buffers that the pickler meets inside of frames become one message. They are known only when the
stream is complete, so the stream is then wrapped once more. Nothing is pickled twice: values that
the store does not take are added to the wrapped stream.
"""

import io
import pickle
import sys
from collections.abc import Callable
from typing import Any

import ray.cloudpickle
from ray.exceptions import RayError

from zerrow_ray import puts, ray_compat, serialization
from zerrow_ray.config import INLINE_LIMIT
from zerrow_ray.kinds import PLAIN, Kind, Reduced, kinds, reaches
from zerrow_ray.ray_compat import Purpose
from zerrow_ray.serialization import Serialization
from zerrow_ray.travelling import with_travelling
from zerrow_ray.warnings import declined
from zerrow_store.errors import ZerrowError

_DECLINED = (ZerrowError, RayError, MemoryError, OSError, ValueError)
"""Errors that send a table on Ray's own path."""


_BYTES_FOR_ONE = 64
"""So many bytes by reference make an object one byte larger in Ray's eyes."""


def is_plain(value: Any) -> bool:
    """Whether this is a number, a text, or an array of numbers, none of which contains a table."""
    cls = type(value)
    if cls in PLAIN:
        return True
    numpy = sys.modules.get("numpy")
    return numpy is not None and cls is numpy.ndarray and not value.dtype.hasobject


def dumps(
    purpose: Purpose, values: list[Any], take_buffer: Callable[[Any], Any]
) -> tuple[bytes, int]:
    """Pickle the value of a put or result, as Ray's own packing hands it over. Buffers that do not
    go by reference are passed to `take_buffer`.

    Returns the stream, and how many bytes larger than the stream Ray is to make the object. There
    are two reasons for that. Ray runs a task where most bytes of its arguments lie, so the size of
    a message has to be in proportion to the data that it refers to. And Ray keeps a small result
    with its owner, but a larger one in this node's plasma, where it is lost together with the data;
    then Ray runs the task again.
    """
    with serialization.serializing(purpose) as under_way:
        try:
            pickler = _Pickler(under_way)
            pickler.dump(values)
            stream = pickler.file.getvalue()
            not_taken = _wait(under_way)
            buffers, of_frames = _publish_buffers(pickler.buffers)
            if of_frames is None and not not_taken:
                for buffer in buffers:
                    take_buffer(buffer)
            else:
                wrapped = _Reducible((_restore, (stream, buffers, of_frames, not_taken)))
                stream = ray.cloudpickle.dumps(wrapped, protocol=5, buffer_callback=take_buffer)
        except BaseException:
            if object_ids := under_way.object_ids():
                puts.delete(object_ids)
            raise
        if object_ids := under_way.object_ids():
            serialization.add_to_put(object_ids)
        if under_way.travelling is None:
            return stream, 0
        larger = INLINE_LIMIT + under_way.bytes_stored // _BYTES_FOR_ONE
        return with_travelling(stream, under_way.travelling), larger


class _Pickler(ray.cloudpickle.CloudPickler):  # type: ignore[misc]  # untyped in Ray
    """Ray's pickler with the reducers of `kinds`.

    buffers: the out-of-band ones in order, each with whether it belongs to a frame.
    """

    buffers: list[tuple[pickle.PickleBuffer, bool]]

    def __init__(self, under_way: Serialization) -> None:
        self.file = io.BytesIO()
        self.buffers = buffers = []
        self.dispatch_table = _reducers()  # looked up when the pickler is made

        # Not a method: the pickler would refer to itself, and keep what it has pickled until Python
        # next collects cycles.
        def take(buffer: pickle.PickleBuffer) -> None:
            buffers.append((buffer, under_way.frames_open > 0))

        super().__init__(self.file, protocol=5, buffer_callback=take)


def _reducers() -> dict[type, Callable[[Any], Any]]:
    """Return all reducers by type. Those that users have registered take precedence."""
    registered, common = ray_compat.reducers()
    known = kinds()
    if len(_ours) != len(known):
        _ours.update({cls: _make_reducer(kind) for cls, kind in known.items() if cls not in _ours})
    table = {**_ours, **common, **registered}
    for cls in _ours.keys() & registered.keys():
        if getattr(registered[cls], "__module__", None) == ray_compat.ARROW_REDUCERS:
            table[cls] = _ours[cls]
    return table


_ours: dict[type, Callable[[Any], Reduced]] = {}
"""Each is made once: kinds are added, and never changed."""


def _make_reducer(kind: Kind) -> Callable[[Any], Reduced]:
    def reduce(value: Any) -> Reduced:
        if not serialization.current().frames_open:
            try:
                if reaches(kind, value):
                    return kind.by_reference(value)
            except _DECLINED as error:
                declined(error)
        return kind.own(value)

    return reduce


def _wait(under_way: Serialization) -> dict[bytes, Any]:
    """Wait until the store has taken the published values; return those that it did not take."""
    not_taken = {}
    for object_id, published in list(under_way.published.items()):
        try:
            published.publication.wait()
        except ZerrowError as error:
            declined(error)
            del under_way.published[object_id]
            not_taken[object_id] = _Reducible(published.kind.own(published.value))
    return not_taken


def _publish_buffers(
    buffers: list[tuple[pickle.PickleBuffer, bool]],
) -> tuple[list[pickle.PickleBuffer | None], "_Reducible | None"]:
    """Publish the buffers of frames as one object.

    Returns all buffers in order, with None for each published one, and what restores those; None in
    its place if there are none, or the store does not take them.
    """
    all_of_them: list[pickle.PickleBuffer | None] = [buffer for buffer, _ in buffers]
    of_frames = [buffer for buffer, of_a_frame in buffers if of_a_frame]
    if not of_frames:
        return all_of_them, None
    from zerrow_ray.messages import publish_buffers

    try:
        published = publish_buffers([buffer.raw() for buffer in of_frames])
    except (*_DECLINED, BufferError) as error:
        declined(error)
        return all_of_them, None
    rest = [None if of_a_frame else buffer for buffer, of_a_frame in buffers]
    return rest, _Reducible(published)


class _Reducible:
    """Is pickled by the given reduction."""

    def __init__(self, reduced: Reduced) -> None:
        self._reduced = reduced

    def __reduce__(self) -> Reduced:
        return self._reduced


def _restore(
    stream: bytes,
    buffers: list[Any],
    of_frames: list[Any] | None,
    not_taken: dict[bytes, Any],
) -> Any:
    """Load a stream with the buffers that it was pickled with."""
    from zerrow_ray.messages import substituting

    published = iter(of_frames or ())
    merged = (next(published) if buffer is None else buffer for buffer in buffers)
    with substituting(not_taken):
        return pickle.loads(stream, buffers=merged)
