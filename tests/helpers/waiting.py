"""Waiting for a condition."""

import time
from collections.abc import Callable
from typing import Any


def wait_until(condition: Callable[[], Any]) -> None:
    """Wait for a condition; the test runner's watchdog ends a wait for what never comes."""
    while not condition():
        time.sleep(0.01)


def eventually(condition: Callable[[], Any], what: str, *, seconds: float = 30) -> None:
    """Wait for a condition; after so many seconds, fail with what was awaited."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain until {what}"
        time.sleep(0.01)
