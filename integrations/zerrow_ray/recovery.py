"""Recovery: results whose data is gone with its node are made again.

Ray runs a task again when its result's message is on no node any more. Copies of the message that
were left when the data's node ended are worthless, and Ray does not know that. So a process that
reads one has its owner forget it, and has it deleted on its own node. Copies on other nodes are
read there, by a task. Each time the owner looks for copies again, which is harmless as long as
there is one that nobody has found worthless.

A get reads again what was made anew. Arguments cannot be read again, as Ray keeps their messages in
plasma for as long as the call runs. So a task on a node that has what was made anew reads it, and
returns it. A task that is no actor's does not wait for that: it ends its worker, and Ray runs it
again.

Nothing of this happens unless the node has ended, as Ray says, and all others have said that they
do not have the data.
"""

import contextlib
import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import ray
import ray.experimental
from ray.exceptions import (
    GetTimeoutError,
    NodeDiedError,
    RayError,
    RaySystemError,
    RayTaskError,
    TaskUnschedulableError,
    WorkerCrashedError,
)
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from zerrow_ray import ray_compat, ray_recovery_compat
from zerrow_ray.ray_recovery_compat import Lost
from zerrow_store import threads
from zerrow_store.errors import ObjectLostError
from zerrow_store.once import warn_once

logger = logging.getLogger("zerrow_ray")

_MOST_READS = 60
_LOOK_SECONDS = 30.0
_READ_SECONDS = 120.0
_GAP_SECONDS = 1.0
_PAUSE_SECONDS = 0.02
_OWNER_MS = 10_000


class LostWithNodeError(ObjectLostError):
    """An object's node has ended, and no other node has a copy of it."""


class _Thread(threading.local):
    """is_reading_again: what a get finds lost is read again by its caller. is_looking: another node
    has asked for this get, and looks elsewhere itself.
    """

    is_reading_again = False
    is_looking = False


_thread = _Thread()


def start() -> None:
    """Make lost results again from now on, as far as this Ray allows."""
    if lacking := ray_recovery_compat.lacking_to_read():
        _warn(lacking)
    else:
        ray_recovery_compat.read_through(_is_lost, _lost)


def lost_with_node(node_id: str) -> LostWithNodeError:
    """Return the error that says that what this thread deserializes is lost; it is to be raised."""
    ray_recovery_compat.note_lost()
    return LostWithNodeError(f"it was on node {node_id}, which is gone")


def _is_lost(error: object) -> bool:
    return isinstance(error, LostWithNodeError)


def _warn(lacking: list[str]) -> None:
    warn_once(
        logger,
        f"results whose data is lost with its node are not made again if their message was copied: "
        f"Ray {ray.__version__} is not known to zerrow_ray (it lacks {', '.join(lacking)})",
    )


def _lost(lost: Lost) -> dict[ray.ObjectRef, Any]:
    """See `ray_recovery_compat.read_through`."""
    if lost.is_get:
        return _got_again(lost)
    if ray_recovery_compat.may_wait_for_ray():
        return _lost_arguments(lost)
    # This is an await. It is answered by the thread that all of Ray's answers come to.
    threads.start(_make_again_later, lost, name="zerrow-recovery")
    return {}


def _got_again(lost: Lost) -> dict[ray.ObjectRef, Any]:
    """Return what a get gets when what it lacked has been made again. Raises what it raises then.

    A worthless message that others still use is read again, once a second or so.
    """
    timeout = lost.timeout if lost.timeout is not None and lost.timeout >= 0 else None
    end = None if timeout is None else time.monotonic() + timeout
    is_made_again = _make_again(lost.refs)
    lost.drop_messages()
    if _thread.is_reading_again or _thread.is_looking:
        return {}
    for _ in range(_MOST_READS if is_made_again else 0):
        _wait(lambda: not any(map(ray_recovery_compat.has_message, lost.refs)), _GAP_SECONDS)
        # What cannot be made again, Ray says in a message, for which there is room only now.
        if not _told(ray_recovery_compat.look_for_copies, lost.refs):
            break
        rest = None if end is None else max(end - time.monotonic(), 0.0)
        _thread.is_reading_again = True
        try:
            return dict(zip(lost.refs, ray.get(lost.refs, timeout=rest), strict=True))
        except RaySystemError as error:
            if not _is_lost(error.client_exc):
                raise
        finally:
            _thread.is_reading_again = False
        now = time.monotonic()
        seconds = _LOOK_SECONDS if end is None else min(end - now, _LOOK_SECONDS)
        if seconds > 0 and (found := _read_elsewhere(lost.refs, now, seconds)):
            return found
    return {}


def _lost_arguments(lost: Lost) -> dict[ray.ObjectRef, Any]:
    """Return what the lost arguments of a call are when they have been made again, as far as that
    can be had. Or end this worker, so that Ray runs its task again.
    """
    if not _make_again(lost.refs):
        return {}
    may_end = ray_recovery_compat.actor_id() is None and not ray_recovery_compat.owns_references()
    end = time.monotonic() + (0.0 if may_end else _READ_SECONDS)
    if (found := _read_elsewhere(lost.refs, end)) or not may_end:
        return found
    print(
        "zerrow_ray: arguments of the task were lost with their node: the worker ends, for Ray to "
        "run the task again",
        file=sys.stderr,
        flush=True,
    )
    os._exit(1)


def _read_elsewhere(
    refs: list[ray.ObjectRef], end: float, seconds: float = _LOOK_SECONDS
) -> dict[ray.ObjectRef, Any]:
    """Have tasks on other nodes that have objects, which may have to be made first, read them, for
    so long each.

    Returns the values, or the errors that took their places; nothing if that cannot be had by this
    time, or at all: if something new, or an error, is only for this node, which has no room for it.
    This process may be what they wait for: its actor makes again what are results of its own, or
    what these need. So this takes no longer than a while.
    """
    if any(ray_recovery_compat.actor_of(ref) == ray_recovery_compat.actor_id() for ref in refs):
        return {}
    found: dict[ray.ObjectRef, Any] = {}
    were_being_made: set[ray.ObjectRef] = set()
    while True:
        try:
            with ray_compat.connection() as connected:
                if not connected:
                    return {}
                known = ray_recovery_compat.nodes_with(refs)
                others = _other_nodes()
        except OSError as error:
            logger.warning("it is not known where lost results have been made again: %s", error)
            return {}
        were_being_made |= set(refs) - known.keys()
        if any(not nodes and ref in were_being_made for ref, nodes in known.items()):
            return {}
        if all(known.get(ref) for ref in refs):
            places = {ref: nodes & others for ref, nodes in known.items()}
            if not all(places.values()):
                return {}
            for ref in [each for each in refs if each not in found]:
                found |= _read_on(min(places[ref]), ref, seconds)
            missing = [ref for ref in refs if ref not in found]
            if not missing:
                return found
            # An error may not have found room where a worthless message still was.
            _told(ray_recovery_compat.look_for_copies, missing)
        if time.monotonic() >= end:
            return {}
        time.sleep(_GAP_SECONDS)


def _read_on(node: str, ref: ray.ObjectRef, seconds: float) -> dict[ray.ObjectRef, Any]:
    """Have a task on a node read an object; return what that is, or nothing."""
    why: RayError
    try:
        copy = ray.remote(_read).options(**_on(node)).remote([ref])
        return {ref: ray.get(copy, timeout=seconds)}
    except RayTaskError as error:
        # What made it again has failed, and who reads it is told so; not if it is lost once more.
        if not isinstance(error.cause, RaySystemError):
            return {ref: error}
        why = error
    except (GetTimeoutError, WorkerCrashedError, NodeDiedError, TaskUnschedulableError) as error:
        why = error
    logger.warning("a lost result could not be read on node %s: %s", node, why)
    return {}


def _read(refs: list[ray.ObjectRef]) -> Any:
    """Return what a reference in a list is. Were it an argument itself, its error would be ours."""
    (ref,) = refs
    return ray.get(ref)


def _make_again_later(lost: Lost) -> None:
    _make_again(lost.refs)


def _make_again(refs: list[ray.ObjectRef]) -> bool:
    """Have lost objects made again, unless other nodes have copies that are worth something; return
    whether that is so.
    """
    if lacking := ray_recovery_compat.lacking_to_tell():
        _warn(lacking)
        return False
    logger.info("results that were lost with their node are made again: %s", refs)
    if not _told(ray_recovery_compat.make_again, refs):
        return False
    if not _thread.is_looking:
        _look_elsewhere(refs)
    return True


def _told(tell: Callable[[list[ray.ObjectRef]], None], refs: list[ray.ObjectRef]) -> bool:
    """Tell Ray's processes something; return whether that could be done.

    An owner that does not answer may have ended with its node, which Ray notices a while later.
    """
    end = time.monotonic() + _LOOK_SECONDS
    while True:
        try:
            with ray_compat.connection() as connected:
                if connected:
                    tell(refs)
                return connected
        except (OSError, ValueError) as error:
            if isinstance(error, ValueError) or time.monotonic() >= end:
                logger.warning("lost results cannot be made again: %s", error)
                return False
        time.sleep(_GAP_SECONDS)


def _look_elsewhere(lost: list[ray.ObjectRef]) -> None:
    """Have the other nodes that have copies of these messages read them, so that these are found
    worthless there, too. Returns when they have done so, or after a while.
    """
    try:
        with ray_compat.connection() as connected:
            looks = _looks(lost) if connected else []
    except (RayError, ValueError) as error:
        logger.warning("other nodes may have worthless messages of lost results: %s", error)
        return
    if looks:
        _wait(lambda: not ray.wait(looks, num_returns=len(looks), timeout=0)[1], _LOOK_SECONDS)


def _looks(lost: list[ray.ObjectRef]) -> list[ray.ObjectRef]:
    locations = ray.experimental.get_object_locations(lost, _OWNER_MS)
    looks = []
    for node in _other_nodes():
        there = [ref for ref in lost if node in locations.get(ref, {}).get("node_ids", ())]
        if there:
            looks.append(ray.remote(_look).options(**_on(node)).remote(there))
    return looks


def _other_nodes() -> set[str]:
    own = ray.get_runtime_context().get_node_id()
    return {node["NodeID"] for node in ray.nodes() if node["Alive"]} - {own}


def _on(node: str) -> dict[str, Any]:
    strategy = NodeAffinitySchedulingStrategy(node, soft=False)
    return {"num_cpus": 0, "max_retries": 0, "scheduling_strategy": strategy}


def _look(refs: list[ray.ObjectRef]) -> None:
    """Read objects, so that their messages are deleted here if they are worthless."""
    _thread.is_looking = True
    try:
        for ref in refs:
            with contextlib.suppress(RayError):
                ray.get(ref, timeout=_LOOK_SECONDS)
    finally:
        _thread.is_looking = False


def _wait(condition: Callable[[], bool], seconds: float) -> None:
    """Wait for a condition, for a while, or until Ray is shut down."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with ray_compat.connection() as connected:
            if not connected or condition():
                return
        time.sleep(_PAUSE_SECONDS)
