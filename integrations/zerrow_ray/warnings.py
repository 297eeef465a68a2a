"""Saying once why tables take Ray's own path, or may; and counting those that do."""

import functools
import logging

from ray.util.metrics import Counter

from zerrow_store.errors import NoOwnerError

logger = logging.getLogger("zerrow_ray")

_warned: set[type] = set()


@functools.cache
def say_once(warning: str) -> None:
    """Log a warning, once."""
    logger.warning(warning)


def declined(error: Exception) -> None:
    """Note why a value takes Ray's own path: counted, and logged as by `warn_once`."""
    _fallbacks().inc(tags={"reason": type(error).__name__})
    warn_once(error)


@functools.cache
def _fallbacks() -> Counter:
    meaning = "Tables and frames that took Ray's own path, by the error"
    return Counter("zerrow_fallbacks", meaning, tag_keys=("reason",))


def warn_once(error: Exception) -> None:
    """Log why tables take Ray's own path, once for each kind of error, unless that is as meant."""
    if type(error) not in _warned and not isinstance(error, NoOwnerError):
        _warned.add(type(error))
        logger.warning("tables take Ray's own path: %s: %s", type(error).__name__, error)
