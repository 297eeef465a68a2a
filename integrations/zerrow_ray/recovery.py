"""Recovery: results whose data is gone with its node are made again.

Ray runs a task again when its result's message is on no node any more. Copies of the message that
were left when the data's node ended are worthless, and Ray does not know that. So a process that
reads one has it deleted, on its own node, while it still uses it: what is deleted is then the copy
that was read, and no later one. Copies on other nodes are read there, by a task. Then the owner is
made to look for copies, which is harmless as long as there is one.

A get reads again what was made anew. A task that is no actor's ends its worker, and Ray runs it
again. Nothing of this happens unless the node has ended, as Ray says, and all others have said that
they do not have the data.
"""

import contextlib
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import ray
import ray.experimental
from ray.exceptions import RayError, RaySystemError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from zerrow_ray import ray_compat
from zerrow_store.once import warn_once

logger = logging.getLogger("zerrow_ray")

_MOST_ATTEMPTS = 8
"""An argument of a recomputed task may be lost as well, and more nodes may end meanwhile."""

_LOOK_SECONDS = 30.0
_PAUSE_SECONDS = 0.02
_OWNER_MS = 10_000


class _Thread(threading.local):
    """lost: what the get under way has found lost. is_looking: such a get makes nothing again."""

    lost: list[ray.ObjectRef] | None = None
    is_looking = False


_thread = _Thread()


def get(original: ray_compat.Get, timeout: float | None) -> Any:
    """Call the original get. If it meets lost results, have them made again and call it again."""
    end = None if timeout is None or timeout < 0 else time.monotonic() + timeout
    for attempt in range(_MOST_ATTEMPTS):
        rest = timeout if end is None or not attempt else max(end - time.monotonic(), 0.0)
        values, error, lost = _attempt(original, rest)
        is_last = attempt == _MOST_ATTEMPTS - 1
        if not lost or is_last or _thread.is_looking or not _make_again(lost):
            break
        values = error = None  # they may refer to the worthless message
    if error is not None:
        raise error
    return values


def _attempt(
    original: ray_compat.Get, timeout: float | None
) -> tuple[Any, RaySystemError | None, list[ray.ObjectRef]]:
    """Return the result or error of a get, and which references it has found lost."""
    with _noticing() as lost:
        try:
            return original(timeout), None, lost
        except RaySystemError as error:
            # Its frames refer to the message.
            return None, error.with_traceback(None), lost


@contextlib.contextmanager
def _noticing() -> Iterator[list[ray.ObjectRef]]:
    outer, _thread.lost = _thread.lost, []
    try:
        yield _thread.lost
    finally:
        _thread.lost = outer


def is_lost(error: Exception) -> bool:
    """Whether an error says that the data of a message is on no node any more."""
    from zerrow_store.errors import ObjectGoneError

    return isinstance(error, ObjectGoneError)


def lost(refs: list[ray.ObjectRef]) -> None:
    """Have objects made again that are lost, see `ray_compat.deserialize_through`."""
    if _thread.lost is not None:
        _thread.lost += _freed(refs)
    elif ray_compat.runs_plain_task():
        _run_again(refs)
    elif freed := _freed(refs, forget=False):
        # Not here: this may be the thread of Ray's that its answers come to.
        threading.Thread(
            target=_make_again_later, args=[freed], name="zerrow-recovery", daemon=True
        ).start()


def _freed(lost: list[ray.ObjectRef], *, forget: bool = True) -> list[ray.ObjectRef]:
    """Have this node's copies of worthless messages deleted, and their owners forget these copies;
    return those for which that could be done. Of what has no owner, Ray says so once it is deleted.
    """
    try:
        from zerrow_ray import ray_recovery_compat
    except ImportError as error:
        warn_once(logger, "results that are lost with their node are not made again", error)
        return []
    freed = []
    for ref in lost:
        try:
            if forget and not ray_compat.owner_has_ended(ref):
                ray_recovery_compat.forget_here(ref)
            ray_recovery_compat.free_here(ref)
            freed.append(ref)
        except (ray_recovery_compat.RpcError, ValueError) as error:
            logger.warning("the lost result %s cannot be made again: %s", ref.hex(), error)
    return freed


def _make_again_later(lost: list[ray.ObjectRef]) -> None:
    """Have results made again once this node's copies have gone, with the call that they were
    arguments of. Until then they would be taken for good ones.
    """
    _wait(lambda: not any(map(ray_compat.has_message, lost)))
    _make_again(lost)


def _wait(condition: Callable[[], bool]) -> None:
    """Wait for a condition, for a while, or until Ray is shut down."""
    end = time.monotonic() + _LOOK_SECONDS
    while time.monotonic() < end:
        with ray_compat.connection() as connected:
            if not connected or condition():
                return
        time.sleep(_PAUSE_SECONDS)


def _run_again(lost: list[ray.ObjectRef]) -> None:
    """End this worker, so that Ray runs its task again, with arguments that are made again.

    Ray keeps the arguments of a task in plasma for as long as the task runs. Does nothing if this
    process owns references: they would end with it.
    """
    if ray_compat.owns_references() or not _make_again(_freed(lost)):
        return
    print(
        "zerrow_ray: arguments of the task were lost with their node: the worker ends, for Ray to "
        "run the task again",
        file=sys.stderr,
        flush=True,
    )
    os._exit(1)


def _make_again(lost: list[ray.ObjectRef]) -> bool:
    """Have results made again, the messages of which this node has no copies of any more.

    Returns False if nobody can.
    """
    if not lost:
        return False
    from zerrow_ray import ray_recovery_compat

    logger.info("results that were lost with their node are made again: %s", lost)
    try:
        with ray_compat.connection() as connected:
            looks = _looks_elsewhere(lost) if connected else []
        if looks:
            _wait(lambda: not ray.wait(looks, num_returns=len(looks), timeout=0)[1])
        with ray_compat.connection() as connected:
            if connected:
                owned = [ref for ref in lost if not ray_compat.owner_has_ended(ref)]
                ray_recovery_compat.check_copies(owned)
            return connected
    except (ray_recovery_compat.RpcError, RayError, ValueError) as error:
        logger.warning("lost results cannot be made again: %s", error)
        return False


def _looks_elsewhere(lost: list[ray.ObjectRef]) -> list[ray.ObjectRef]:
    """Have the other nodes that have copies of these messages read them; return the tasks that do
    so.
    """
    own = ray.get_runtime_context().get_node_id()
    alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]} - {own}
    locations = ray.experimental.get_object_locations(lost, _OWNER_MS)
    looks = []
    for node in alive:
        there = [ref for ref in lost if node in locations.get(ref, {}).get("node_ids", ())]
        if there:
            strategy = NodeAffinitySchedulingStrategy(node, soft=False)
            options = {"num_cpus": 0, "max_retries": 0, "scheduling_strategy": strategy}
            looks.append(ray.remote(_look).options(**options).remote(there))
    return looks


def _look(refs: list[ray.ObjectRef]) -> None:
    """Read objects, so that their messages are deleted here if they are worthless."""
    _thread.is_looking = True
    try:
        for ref in refs:
            with contextlib.suppress(RayError):
                ray.get(ref, timeout=_LOOK_SECONDS)
    finally:
        _thread.is_looking = False
