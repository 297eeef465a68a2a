"""Switch the captures: which allocators of this process serve from its arena.

What they allocate outside of it is followed where KernelZero can be used, so that it is moved at
publication instead of copied. Each capture is on its own: one that fails says so in one log line,
and its library goes on with its own allocator; what that allocates is copied at publication. Calls
are serialised by a lock, because two threads may start at once. The native module is loaded by
what needs it: `zerrow_ray` starts the captures from within the import of pyarrow, which may have
begun in the native package.
"""

import logging
from collections.abc import Callable

from zerrow_store.cgroups import memory_groups
from zerrow_store.config import MemoryConfig
from zerrow_store.forks import Lock
from zerrow_store.memory import huge_pages, kernelzero

_log = logging.getLogger("zerrow_store")
_lock = Lock()


def start(config: MemoryConfig | None = None) -> dict[str, bool]:
    """Let Arrow and NumPy allocate in this process's arena; return what is captured.

    The config (by default from the environment; ValueError if that is wrong) applies to an arena
    made from now on: the first start decides. Starting again switches captures as configured.
    Raises KernelZeroError or HugePagesError if the one or the other is asked for and cannot be had.
    """
    from zerrow_store.native import _native

    config = config or MemoryConfig.from_environment()
    if config.huge_pages == "on" and not config.arena_sealable:
        huge_pages.require()
    with _lock:
        _native.configure_arena(
            capacity=config.arena_capacity,
            warm_limit=config.warm_limit,
            decay_ms=config.decay_ms,
            huge_pages=config.huge_pages,
            sealable=config.arena_sealable,
            groups=memory_groups(),
        )
        _switch("Arrow", _native.capture_arrow, config.capture_arrow)
        _switch("NumPy", _native.capture_numpy, config.capture_numpy)
        _follow(kernelzero.wanted(config.kernelzero))
        return _native.captured()


def stop() -> None:
    """Let Arrow and NumPy allocate as before. What lies in the arena stays valid."""
    from zerrow_store.native import _native

    with _lock:
        _native.capture_arrow(False)
        _native.capture_numpy(False)
        _follow(False)


def _switch(library: str, capture: Callable[[bool], None], on: bool) -> None:
    try:
        capture(on)
    except (RuntimeError, ImportError, MemoryError) as error:
        _log.warning("%s allocates outside the arena, its data will be copied: %s", library, error)


def _follow(on: bool) -> None:
    from zerrow_store.native import _native

    if on:
        _switch("Arrow", lambda _: _native.follow_arrow(), True)
        _switch("NumPy", lambda _: _native.follow_numpy(), True)
    _native.follow_allocations(on)
