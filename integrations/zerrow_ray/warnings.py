"""Saying once why tables take Ray's own path, or may."""

import functools
import logging

from zerrow_store.errors import NoOwnerError

logger = logging.getLogger("zerrow_ray")

_warned: set[type] = set()


@functools.cache
def say_once(warning: str) -> None:
    """Log a warning, once."""
    logger.warning(warning)


def warn_once(error: Exception) -> None:
    """Log why tables take Ray's own path, once for each kind of error, unless that is as meant."""
    if type(error) not in _warned and not isinstance(error, NoOwnerError):
        _warned.add(type(error))
        logger.warning("tables take Ray's own path: %s: %s", type(error).__name__, error)
