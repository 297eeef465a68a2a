"""A side's Ray, and what it has copied. A side is on plain Ray if its name begins with that."""

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import ray

from benchmarks.plasma_compat import created_bytes

PLASMA = 4 << 30


def is_plain(side: str) -> bool:
    """Whether a side runs without the plugin."""
    return side.startswith("plain Ray")


@contextlib.contextmanager
def ray_session(side: str, *, plasma: int = PLASMA, **options: Any) -> Iterator[None]:
    """A Ray of the side's own, whose two workers have been started.

    options: memory and eviction of the plugin's stores.
    """
    arguments: dict[str, Any] = {"address": "local", "num_cpus": 2, "include_dashboard": False}
    arguments |= {"log_to_driver": False, "logging_level": "error", "object_store_memory": plasma}
    if is_plain(side):
        ray.init(**arguments)
    else:
        import zerrow_ray

        zerrow_ray.init(**arguments, **options)
    ray.get([_load.remote() for _ in range(2)])
    yield
    ray.shutdown()


@ray.remote
def _load() -> None:
    """Have the worker load what all cases use."""
    import pandas  # noqa: F401
    import pyarrow.parquet  # noqa: F401

    time.sleep(0.5)


def copied_bytes() -> int:
    """Return a running count of what was written to plasma, and copied by the plugin's stores."""
    copied = created_bytes()
    if "zerrow_ray" in sys.modules:
        import zerrow_ray

        copied += zerrow_ray.stats().total.bytes_copied
    return copied


def touch_plasma(nbytes: int = PLASMA) -> None:
    """Write most of plasma once: nothing pays for its first use after that."""
    block = np.ones(64 << 20, np.uint8)
    refs = [ray.put(block) for _ in range(nbytes * 8 // 10 // block.nbytes)]
    del refs
    time.sleep(1)
