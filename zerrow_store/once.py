"""Warnings that a process logs once."""

import logging

_warned: set[tuple[str, type]] = set()


def warn_once(logger: logging.Logger, text: str, error: Exception | None = None) -> None:
    """Log a warning, and the error that it is about; once for each text and type of error."""
    warning = (text, type(error))
    if warning in _warned:
        return
    _warned.add(warning)
    if error is None:
        logger.warning("%s", text)
    else:
        logger.warning("%s: %s: %s", text, type(error).__name__, error)
