"""Why tables take Ray's own path: logged once for each reason, and counted."""

import functools
import logging

from ray.util.metrics import Counter

from zerrow_store.errors import NoOwnerError
from zerrow_store.once import warn_once

logger = logging.getLogger("zerrow_ray")


def declined(error: Exception) -> None:
    """Count a value that takes Ray's own path, and log why as `explain` does."""
    _fallbacks().inc(tags={"reason": type(error).__name__})
    explain(error)


@functools.cache
def _fallbacks() -> Counter:
    meaning = "Tables and frames that took Ray's own path, by the error"
    return Counter("zerrow_fallbacks", meaning, tag_keys=("reason",))


def explain(error: Exception) -> None:
    """Log why tables take Ray's own path, once for each type of error.

    Without an owner they are meant to, and nothing is logged.
    """
    if not isinstance(error, NoOwnerError):
        warn_once(logger, "tables take Ray's own path", error)
