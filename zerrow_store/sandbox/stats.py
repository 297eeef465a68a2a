"""Counters of this process's sandboxes."""

from zerrow_store.forks import Lock
from zerrow_store.protocol.reports import SandboxStats

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
