"""`pyarrow.allocate_buffer`, for those who fill a buffer, put a table over it, and fill it again.

By Arrow's contract data does not change once it is in an array, so what Arrow allocates is shared
as it is. A buffer that a program has asked for is the exception: files and writers fill it in
place, and what was put before must not change with it. So such buffers lie outside of the arena,
and a put copies them.
"""

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

_ARENA_POOL = "zerrow"
"""As native/memory/pool.h names it."""


@functools.cache
def _functions() -> "tuple[Callable[..., pa.Buffer], Callable[..., pa.Buffer]]":
    """Return pyarrow's own function, and the one that takes its place."""
    # Not at the top: this is imported before pyarrow, and in processes that never import it.
    import pyarrow as pa

    own = pa.lib.allocate_buffer

    @functools.wraps(own)
    def outside(size: int, memory_pool: Any = None, resizable: bool = False) -> pa.Buffer:
        pool = pa.default_memory_pool() if memory_pool is None else memory_pool
        # Not one of a program's own over it, which counts what it is asked for.
        if type(pool) is pa.MemoryPool and pool.backend_name == _ARENA_POOL:
            pool = _pool_outside()
        return own(size, pool, resizable)

    return own, outside


def _pool_outside() -> "pa.MemoryPool":
    """Return a pool that is not captured: the default one may be any of these."""
    import pyarrow as pa

    if pa.system_memory_pool().backend_name != _ARENA_POOL:
        return pa.system_memory_pool()
    return pa.mimalloc_memory_pool()  # in all of pyarrow's wheels


def allocate_outside(on: bool) -> None:
    """Take the place of `pyarrow.allocate_buffer` in this process, or give it back."""
    import pyarrow as pa

    own, outside = _functions()
    pa.allocate_buffer = pa.lib.allocate_buffer = outside if on else own


def allocate(size: int, *, resizable: bool = False) -> "pa.Buffer":
    """Allocate a buffer in the default pool, for bytes that are written once, before a put."""
    import pyarrow as pa

    own, _ = _functions()
    return own(size, pa.default_memory_pool(), resizable)
