"""What a process does when something happens to its connection to a store."""

from collections.abc import Callable
from typing import Any

from zerrow_store.protocol import notices

Call = Callable[..., Any]
"""Send a request, with descriptors, on a new connection, and return its reply."""


class Listener:
    """What is told of a connection; does nothing by itself. All but `begin` are called by the
    connection's own threads, and may not wait for the store.
    """

    def begin(self) -> None:
        """Have nothing, as at first: this process is a forked child."""

    def introduce(self, call: Call) -> None:
        """Tell a store that was just connected to what it has to know first."""

    def lost(self) -> None:
        """The store has begun anew: what it had is lost to it."""

    def paused(self) -> None:
        """The store has hung up: until it is back, it says nothing of memory."""

    def missed(self) -> None:
        """The store has been away for long."""

    def note(self, notice: notices.Notice) -> None:
        """Do what a notice of the store entails."""

    def released(self) -> None:
        """Some holds have ended."""
