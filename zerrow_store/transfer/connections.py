"""Pools of idle connections.

They lead to other machines' senders, and to this machine's agent.
"""

import weakref
from collections import OrderedDict
from collections.abc import Iterable

from zerrow_store.forks import Lock
from zerrow_store.transfer.channel import Channel, connect
from zerrow_store.transfer.security import Security

_MOST_IDLE = 64


class IdleConnections:
    """Connections of this process that are not in use. Safe to use from any thread."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._idle: OrderedDict[Channel, str] = OrderedDict()  # the one used last comes last
        weakref.finalize(self, _close_all, self._idle)

    def idle(self, location: str) -> Channel | None:
        """Return an idle connection; None if there is none.

        The other end may be closing it at this moment, so retry on a new connection if it fails.
        """
        while True:
            with self._lock:
                channels = reversed(self._idle)
                channel = next((each for each in channels if self._idle[each] == location), None)
                if channel is None:
                    return None
                del self._idle[channel]
            if not channel.is_readable(0):  # else it was closed: no message is outstanding
                return channel
            channel.close()

    def give_back(self, location: str, channel: Channel) -> None:
        """Keep a connection whose last exchange is complete."""
        with self._lock:
            self._idle[channel] = location
            surplus = [self._idle.popitem(last=False)[0]] if len(self._idle) > _MOST_IDLE else []
        _close_all(surplus)

    def forget(self) -> None:
        """Close all connections in a forked child. The parent goes on using them."""
        _close_all(self._idle)
        self._idle.clear()


class Connections(IdleConnections):
    """Idle connections to other machines, and new ones."""

    def __init__(self, security: Security) -> None:
        super().__init__()
        self._security = security

    def open(self, location: str) -> Channel:
        """Return a new connection. Raises OSError, ProtocolError."""
        return connect(location, self._security)


def _close_all(channels: Iterable[Channel]) -> None:
    for channel in channels:
        channel.close()
