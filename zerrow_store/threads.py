"""Threads that log an unexpected error and go on."""

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

logger = logging.getLogger("zerrow_store")

_PAUSE_SECONDS = 1.0


def start(target: Callable[..., None], *arguments: Any, name: str) -> threading.Thread:
    """Start a daemon thread. If `target` raises, that is logged, and it begins anew."""

    def run() -> None:
        while True:
            try:
                return target(*arguments)
            except Exception:
                logger.exception("the thread %s begins anew", name)
                time.sleep(_PAUSE_SECONDS)

    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    return thread
