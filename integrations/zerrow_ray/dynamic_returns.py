"""This process's tasks with `num_returns="dynamic"`.

Which of their references carries which object cannot be known in advance, so this process does not
claim their results.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from zerrow_ray.references import split

_lock = threading.Lock()
_submitting = 0
_tasks: set[bytes] = set()


def includes(task: bytes) -> bool:
    """Whether a task is one of these, or may be: any may while one is being submitted."""
    with _lock:
        return bool(_submitting) or task in _tasks


@contextmanager
def submission() -> Iterator[Callable[[Any], None]]:
    """Submit such a task inside of the block, and pass its reference to what this yields."""
    global _submitting
    with _lock:
        _submitting += 1
    try:
        yield _submitted
    finally:
        with _lock:
            _submitting -= 1


def _submitted(ref: Any) -> None:
    task, _ = split(ref.binary())
    with _lock:
        _tasks.add(task)
