"""This process's tasks with `num_returns="dynamic"`: nobody can foretell which of their references
carries what, so it claims nothing of what they return.
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
    """Whether a task is, or may be, one of these: while one is submitted, any may."""
    with _lock:
        return bool(_submitting) or task in _tasks


@contextmanager
def submission() -> Iterator[Callable[[Any], None]]:
    """Submit one within; what this yields is to be told of its reference."""
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
