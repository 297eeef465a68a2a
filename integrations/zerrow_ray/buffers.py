"""`pyarrow.allocate_buffer`, for those who fill a buffer, put a table over it, and fill it again.

By Arrow's contract data does not change once it is in an array, so what Arrow allocates is shared
as it is. A buffer that a program has asked for is the exception: files and writers fill it in
place, and what was put before must not change with it. So such buffers lie outside of the arena,
and a put copies them. Those of a pool that the caller names are as they were.
"""

import functools
from typing import Any

import pyarrow as pa

_allocate_buffer = pa.allocate_buffer


@functools.wraps(_allocate_buffer)
def _outside(size: int, memory_pool: pa.MemoryPool | None = None, resizable: bool = False) -> Any:
    pool = pa.system_memory_pool() if memory_pool is None else memory_pool
    return _allocate_buffer(size, pool, resizable)


def register() -> None:
    """Take the place of `pyarrow.allocate_buffer` in this process."""
    pa.allocate_buffer = pa.lib.allocate_buffer = _outside
