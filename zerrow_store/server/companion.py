"""The companion: a process that the server keeps running beside it.

A companion listens on an abstract socket of the store's, so that there is one at most, whoever
starts it, and whichever server was there before.
"""

import argparse
import json
import logging
import socket
import subprocess
import time
from dataclasses import dataclass

from zerrow_store.protocol.sockets import transfer_address

logger = logging.getLogger("zerrow_store.server")

_LONGEST_PAUSE = 60.0


@dataclass(frozen=True)
class Lasting:
    """companion: the command of a process that is always to be there. unused_seconds: the store
    ends when nobody has been connected for so long, and nothing is stored; None: never.
    """

    companion: tuple[str, ...] = ()
    unused_seconds: float | None = None

    @staticmethod
    def add_arguments(parser: argparse.ArgumentParser) -> None:
        """Have a command line take it."""
        parser.add_argument("--companion", type=json.loads, default=[], help="a list, as JSON")
        parser.add_argument("--unused-seconds", type=float)

    @classmethod
    def of(cls, arguments: argparse.Namespace) -> "Lasting":
        """Return what a command line has."""
        return cls(tuple(arguments.companion), arguments.unused_seconds)

    def arguments(self) -> list[str]:
        """Return it for a command line."""
        arguments = ["--companion", json.dumps(self.companion)] if self.companion else []
        if self.unused_seconds is not None:
            arguments += ["--unused-seconds", str(self.unused_seconds)]
        return arguments


class Companion:
    """Starts the companion of a store, and restarts it, with longer pauses if it keeps ending."""

    def __init__(self, store: str, command: tuple[str, ...]) -> None:
        self._store = store
        self._command = command
        self._process: subprocess.Popen[bytes] | None = None
        self._started = 0.0
        self._pause = 1.0

    def ensure_running(self) -> None:
        """Start the companion if there is none."""
        if not self._command or (self._process is not None and self._process.poll() is None):
            return
        now = time.monotonic()
        if now - self._started < self._pause or not self._is_missing():
            return
        self._pause = min(2 * self._pause, _LONGEST_PAUSE) if now - self._started < 60 else 1.0
        self._started = now
        try:
            self._process = subprocess.Popen(
                self._command, start_new_session=True, stdin=subprocess.DEVNULL
            )
        except OSError as error:  # tried again later
            logger.warning("cannot start %s: %s", self._command, error)

    def _is_missing(self) -> bool:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            try:
                probe.bind(transfer_address(self._store))
            except OSError:
                return False
        return True
