"""The switches of the captures: which allocators of this process use its arena.

With KernelZero, allocations outside of the arena are tracked, so that publication moves instead of
copies them. The captures are independent: if one fails, one log line says so, and its library keeps
its own allocator, whose data publication copies. A lock serializes the calls, as two threads may
start the captures at once. The native module is imported where it is used: `zerrow_ray` starts the
captures from within the import of pyarrow, which may have begun in the native package.
"""

import logging
from collections.abc import Callable

from zerrow_store.cgroups import memory_groups
from zerrow_store.config import MemoryConfig
from zerrow_store.forks import Lock
from zerrow_store.memory import huge_pages, kernelzero
from zerrow_store.memory.buffers import allocate_outside

_log = logging.getLogger("zerrow_store")
_lock = Lock()


def start(config: MemoryConfig | None = None) -> dict[str, bool]:
    """Have Arrow and NumPy allocate in this process's arena. Starting again applies the config.

    Buffers of `pyarrow.allocate_buffer`, which programs fill again, lie elsewhere, unless the
    caller gives a pool of its own.

    Parameters
    ----------
    config
        By default from the environment. Its options for the arena count only until the arena
        exists.

    Returns
    -------
    dict
        Which libraries are captured: {"arrow": bool, "numpy": bool}.

    Raises
    ------
    ValueError
        The environment has a malformed setting.
    KernelZeroError, HugePagesError
        The config requires what this machine lacks.
    """
    captured, failures = attempt(config)
    for library, reason in failures.items():
        _log.warning("%s allocates outside of the arena: %s", library, reason)
    return captured


def attempt(config: MemoryConfig | None = None) -> tuple[dict[str, bool], dict[str, str]]:
    """Start as `start` does, and return also for which library that failed, and why."""
    from zerrow_store.native import _native

    config = config or MemoryConfig.from_environment()
    failures: dict[str, str] = {}
    with _lock:
        _native.configure_arena(
            capacity=config.arena_capacity,
            warm_limit=config.warm_limit,
            decay_ms=config.decay_ms,
            huge_pages=config.huge_pages,
            sealable=config.arena_sealable,
            groups=memory_groups(),
        )
        if config.huge_pages == "on" and not config.arena_sealable:
            huge_pages.require()
        _switch(failures, "Arrow", lambda: _native.capture_arrow(config.capture_arrow))
        _switch(failures, "NumPy", lambda: _native.capture_numpy(config.capture_numpy))
        _track(failures, kernelzero.wanted(config.kernelzero))
        captured: dict[str, bool] = _native.captured()
        allocate_outside(captured["arrow"])
        return captured, failures


def stop() -> None:
    """Have Arrow and NumPy allocate as before. Memory of the arena stays valid."""
    from zerrow_store.native import _native

    with _lock:
        allocate_outside(False)
        _native.capture_arrow(False)
        _native.capture_numpy(False)
        _native.track_allocations(False)


def _switch(failures: dict[str, str], library: str, capture: Callable[[], None]) -> None:
    try:
        capture()
    except (RuntimeError, ImportError, MemoryError) as error:
        failures[library] = str(error)


def _track(failures: dict[str, str], on: bool) -> None:
    from zerrow_store.native import _native

    if on:
        _switch(failures, "Arrow", _native.track_arrow)
        _switch(failures, "NumPy", _native.track_numpy)
    _native.track_allocations(on)
