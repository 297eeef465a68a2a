"""Counters of this process's sandboxes."""

from dataclasses import asdict, dataclass
from typing import Any

from zerrow_store.forks import Lock


@dataclass(frozen=True)
class SandboxStats:
    """Counts since the start of the process.

    Attributes
    ----------
    calls
        All calls.
    warm, waited, cold
        Calls that found a sandbox ready, waited until one was ready for its next call, or started
        one.
    started
        Sandboxes started, spare ones included.
    broken
        Sandboxes that a call made unusable.
    failed, timeouts, out_of_memory
        Calls that failed, by reason.
    bytes_copied, bytes_shared
        Inputs that were copied to isolate them, or passed as they were.
    bytes_returned
        Outputs, by reference.
    """

    calls: int = 0
    warm: int = 0
    waited: int = 0
    cold: int = 0
    started: int = 0
    broken: int = 0
    failed: int = 0
    timeouts: int = 0
    out_of_memory: int = 0
    bytes_copied: int = 0
    bytes_shared: int = 0
    bytes_returned: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Return the counts by name."""
        return asdict(self)


_lock = Lock()
_counts = SandboxStats().as_dict()


def count(**increments: int) -> None:
    """Add to the counts."""
    with _lock:
        for name, increment in increments.items():
            _counts[name] += increment


def stats() -> SandboxStats:
    """Return this process's counts so far."""
    with _lock:
        return SandboxStats(**_counts)
