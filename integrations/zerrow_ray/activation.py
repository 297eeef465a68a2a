"""Activation: switching the plugin on in a process.

A worker is activated by the functions and actor classes that it loads. Every process with the
plugin exports them together with the activation, and the worker's own exports do the same. Neither
pyarrow nor NumPy nor the store is loaded before the process itself imports pyarrow. A worker
without `zerrow_ray` loads the function all the same.
"""

import functools
import logging
import operator
import os
from typing import Any

import ray.cloudpickle

from zerrow_ray import ray_compat, recovery, task_context
from zerrow_ray.imports import when_imported
from zerrow_ray.neighbours import has_neighbours

logger = logging.getLogger("zerrow_ray")

_SWITCH_ON = """
try:
    from zerrow_ray import activation
except ImportError:
    pass
else:
    activation.activate()
"""
"""What a worker runs first. It is text, because it must also load where zerrow_ray is missing."""


@functools.cache
def activate() -> bool:
    """Switch the plugin on in this process; return whether it is on. Later calls change nothing."""
    if lacking := ray_compat.missing():
        logger.warning(
            "tables take Ray's own path: Ray %s is not known to zerrow_ray (it lacks %s)",
            ray.__version__,
            ", ".join(lacking),
        )
        return False
    ray_compat.export_through(_Exported)
    # Not later: the first table that a worker gets is what has it import pyarrow.
    recovery.start()
    ray_compat.read_several_through(_fetch_several)
    ray_compat.wait_through(_wait)
    when_imported("pyarrow", lambda _: _let_tables_go_by_reference())
    if os.environ.get("ZERROW_DATA_CACHE", "0") != "0":
        when_imported("ray.data", lambda _: _cache_reads())
    return True


class _Exported:
    """A pickled function or class, which switches the plugin on where it is loaded."""

    def __init__(self, pickled: bytes) -> None:
        self._pickled = pickled

    def __reduce__(self) -> tuple[Any, ...]:
        # A tuple is loaded in order: first the switch, then the function, which is returned.
        return operator.getitem, ((_SwitchOn(), _Pickled(self._pickled)), 1)


class _SwitchOn:
    def __reduce__(self) -> tuple[Any, ...]:
        return exec, (_SWITCH_ON, {})


class _Pickled:
    def __init__(self, pickled: bytes) -> None:
        self._pickled = pickled

    def __reduce__(self) -> tuple[Any, ...]:
        return ray.cloudpickle.loads, (self._pickled,)


# What the next two import is needed only where there are other nodes.


def _fetch_several(messages: list[Any]) -> None:
    if has_neighbours():
        from zerrow_ray import fetching

        for message in messages:
            if (far := fetching.far(message)) is not None:
                fetching.begin(far)


def _wait(waits: ray_compat.Waits, waited: list[Any], *how: Any) -> Any:
    if not has_neighbours():
        return waits(waited, *how)
    from zerrow_ray import waiting

    return waiting.wait(waits, waited, *how)


def _let_tables_go_by_reference() -> None:
    try:
        # The native package may be what imports pyarrow, before it has chosen its own module.
        from zerrow_store.native.version import choose_module

        choose_module()
        from zerrow_ray import (
            arguments,
            connecting,
            dynamic_returns,
            frames,
            ownership,
            pickling,
            puts,
            tables,
        )
        from zerrow_store import memory

        memory.start()
        tables.register()
        frames.register()
    except Exception:
        logger.exception("zerrow_ray is off in this process: tables take Ray's own path")
        return
    ray_compat.let_shutdown_wait()
    # In this order, so that the items of every known task are counted from the first one on.
    ray_compat.serialize_through(pickling.dumps, pickling.is_plain, task_context.count)
    ray_compat.around_task_bodies(task_context)
    ray_compat.put_through(puts.put, pickling.is_plain)
    ray_compat.submit_through(
        connecting.connect_soon, arguments.prepared, dynamic_returns.submission
    )
    ray_compat.items_taken_through(ownership.note_taken)


def _cache_reads() -> None:
    from zerrow_ray.data import cache_reads

    cache_reads()
