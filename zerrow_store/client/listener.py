"""The interface by which a connection reports events to the rest of the client."""

from collections.abc import Callable
from typing import Any

from zerrow_store.protocol import notices

Call = Callable[..., Any]
"""Send a request, with descriptors, on a new connection, and return its reply."""


class Listener:
    """A listener that does nothing. The connection's own threads call all methods but `begin`, so
    none of them may wait for the store.
    """

    def begin(self) -> None:
        """Begin anew: this process is a forked child."""

    def introduce(self, call: Call) -> None:
        """Tell a newly connected store what it has to know first."""

    def lost(self) -> None:
        """Note that the store has begun anew, and lost all its objects."""

    def paused(self) -> None:
        """Note that the store has hung up. Until it is back, it sends no notices about memory."""

    def missed(self) -> None:
        """Note that the store has been away for long."""

    def note(self, notice: notices.Notice) -> None:
        """Handle a notice of the store."""

    def released(self) -> None:
        """Note that some holds have ended."""
