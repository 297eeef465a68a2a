"""Where a store's processes log: one rotated file each, as two processes cannot rotate one.

The server has the file, the supervisor one beside it. Whatever else a process writes to standard
error (a fatal signal's traceback, a library's complaint) goes to the same file. A process whose
file cannot be opened goes on without one.
"""

import faulthandler
import logging
import os
import sys
import threading
from functools import partial
from io import TextIOWrapper
from logging.handlers import RotatingFileHandler
from pathlib import Path
from urllib.parse import quote

logger = logging.getLogger("zerrow_store")

_MOST_BYTES = 8 << 20
_KEPT = 3


def default_log(name: str) -> Path:
    """Return the log of the store `name` where none is given: in the XDG state directory."""
    state = os.environ.get("XDG_STATE_HOME", "")
    # As the XDG specification has it, a relative path is ignored.
    base = Path(state) if os.path.isabs(state) else Path.home() / ".local" / "state"
    return base / "zerrow-store" / f"{quote(name, safe='')}.log"


def supervisor_log(log: Path) -> Path:
    """Return the supervisor's file beside the server's."""
    return log.with_name(f"{log.stem}-supervisor{log.suffix}")


def open_log(path: Path) -> int:
    """Return a descriptor that appends to a log, or writes nowhere if it cannot be opened."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError:
        return os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)


def start(path: Path) -> None:
    """Let this process log to a file, uncaught exceptions included."""
    form = logging.Formatter("%(asctime)s %(name)s %(levelname)s %(process)d %(message)s")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handler: logging.Handler = _LogFile(path, maxBytes=_MOST_BYTES, backupCount=_KEPT)
    except OSError as error:
        handler = logging.StreamHandler()
        logger.warning("cannot log to %s: %s", path, error)
    handler.setFormatter(form)
    logging.getLogger().addHandler(handler)
    logger.setLevel(logging.INFO)
    sys.excepthook = lambda *raised: logger.critical("the process ends", exc_info=raised)
    threading.excepthook = _log_thread_end
    faulthandler.enable()


def _log_thread_end(raised: threading.ExceptHookArgs) -> None:
    name = raised.thread.name if raised.thread is not None else "unknown"
    logger.critical("thread %s ends", name, exc_info=raised.exc_value)


class _LogFile(RotatingFileHandler):
    """Takes standard error along: to the first file, and to each that follows it."""

    def _open(self) -> TextIOWrapper:
        opener = partial(os.open, mode=0o600)
        stream = open(self.baseFilename, "a", encoding="utf-8", opener=opener)  # noqa: SIM115
        os.dup2(stream.fileno(), 2)
        return stream
