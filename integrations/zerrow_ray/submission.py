"""Telling puts from results, and giving every table that is an argument a put of its own.

Objects nested in a result are held by a lease (see `leases`). Ray 2.60 forgets what is nested in a
*put* object when that goes out of scope through the lineage of a task that took it: the nested
reference then stays for good (ReferenceCounter::ReleaseLineageReferences erases the entry without
visiting what it contains). So tables in puts are not tied to a nested lease, but to the put object
itself, by
an out-of-scope callback of the process that put it. For that the object's id has to be known, which
for arguments given by value it is not: such arguments are put explicitly first.
"""

import functools
import inspect
import threading
from collections.abc import Callable
from typing import Any

import ray
from ray._private.worker import Worker
from ray.actor import ActorClass, ActorHandle
from ray.remote_function import RemoteFunction

from zerrow_ray.session import current_session, warn_once
from zerrow_store.errors import ZerrowError
from zerrow_store.node.client import Publication

_BY_VALUE = (ray.ObjectRef, ActorHandle, bool, int, float, str, bytes, type(None))


class _Context(threading.local):
    put: dict[bytes, Publication] | None = None  # the objects published by the put under way
    submitting = False
    declining = False


_context = _Context()


class ArgumentNeedsPut(BaseException):
    """A table is about to be serialized as an argument: the submission has to put it first.

    No Exception: nothing on the way out is to take it for an error.
    """


def is_put() -> bool:
    """Whether a `ray.put` is being serialized in this thread."""
    return _context.put is not None


def is_declining() -> bool:
    """Whether tables in this thread are to take Ray's own path: the store did not take them."""
    return _context.declining


def add_to_put(object_id: bytes, publication: Publication) -> None:
    """Tie an object's life to the put under way, which waits for its publication."""
    assert _context.put is not None
    _context.put[object_id] = publication


def check_argument() -> None:
    """Raise ArgumentNeedsPut if an argument is being serialized in this thread."""
    if _context.submitting:
        raise ArgumentNeedsPut


@functools.cache
def install() -> None:
    """Wrap Ray's put and its three ways of submitting. Once for a process."""
    Worker.put_object = _put_wrapper(Worker.put_object)
    RemoteFunction._remote = _submission_wrapper(RemoteFunction._remote)
    ActorClass._remote = _submission_wrapper(ActorClass._remote)
    ActorHandle._actor_method_call = _submission_wrapper(ActorHandle._actor_method_call)


def _put_wrapper(original: Callable[..., ray.ObjectRef]) -> Callable[..., ray.ObjectRef]:
    def put_once(*args: Any, **kwargs: Any) -> ray.ObjectRef:
        outer, _context.put = _context.put, {}
        try:
            ref = original(*args, **kwargs)
            # The store took them while Ray stored their messages.
            for publication in _context.put.values():
                publication.wait()
        except BaseException:
            if _context.put:
                current_session().delete(list(_context.put))
            raise
        else:
            if _context.put:
                current_session().delete_with(ref, list(_context.put))
            return ref
        finally:
            _context.put = outer

    @functools.wraps(original)
    def put_object(*args: Any, **kwargs: Any) -> ray.ObjectRef:
        try:
            return put_once(*args, **kwargs)
        except ZerrowError as error:
            warn_once(error)
        outer, _context.declining = _context.declining, True
        try:
            return original(*args, **kwargs)
        finally:
            _context.declining = outer

    return put_object


def _submission_wrapper(original: Callable[..., Any]) -> Callable[..., Any]:
    signature = inspect.signature(original)

    @functools.wraps(original)
    def submit(*args: Any, **kwargs: Any) -> Any:
        outer, _context.submitting = _context.submitting, True
        try:
            return original(*args, **kwargs)
        except ArgumentNeedsPut:
            call = signature.bind(*args, **kwargs)
            given = call.arguments
            given["args"] = [_put(value) for value in given.get("args") or ()]
            given["kwargs"] = {k: _put(value) for k, value in (given.get("kwargs") or {}).items()}
            return original(*call.args, **call.kwargs)
        finally:
            _context.submitting = outer

    return submit


def _put(value: Any) -> Any:
    return value if isinstance(value, _BY_VALUE) else ray.put(value)
