"""Accepting connections, also when there are no descriptors left."""

import contextlib
import logging
import os
import selectors
import socket
from collections.abc import Callable
from typing import Any

logger = logging.getLogger("zerrow_store.server")


class Listener:
    """The socket on which clients connect. accepted: called with each new connection's socket."""

    def __init__(self, listener: socket.socket, accepted: Callable[[socket.socket], Any]) -> None:
        self._listener = listener
        self._accepted = accepted
        self._spare: int | None = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)

    def register(self, selector: selectors.BaseSelector) -> None:
        """Accept connections when the selector says that there are any."""
        self._listener.setblocking(False)
        selector.register(self._listener, selectors.EVENT_READ, self._accept)

    def _accept(self, *_: Any) -> None:
        try:
            sock, _ = self._listener.accept()
        except BlockingIOError:
            return
        except OSError as error:
            self._hang_up(error)
            return
        try:
            self._accepted(sock)
        except OSError as error:
            logger.warning("cannot take a connection: %s", error)
            sock.close()

    def _hang_up(self, error: OSError) -> None:
        """Without descriptors left, a spare one serves to hang up: nobody waits for an answer."""
        logger.warning("cannot take a connection: %s", error)
        if self._spare is not None:
            os.close(self._spare)
            self._spare = None
        with contextlib.suppress(OSError):
            self._listener.accept()[0].close()
            self._spare = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
