"""What the sandboxes of this process have done."""

from dataclasses import asdict, dataclass
from typing import Any

from zerrow_store.forks import Lock


@dataclass(frozen=True)
class SandboxStats:
    """Running counts.

    calls: all, of which some `failed`, were ended (`timeouts`, `out_of_memory`), or found a sandbox
    that was ready (`warm`), that had yet to get ready for the next call (`waited`), or had to start
    one (`cold`). started: sandboxes, in use or ahead; broken: those that a call made unusable.
    bytes_copied: inputs that were copied to isolate them; bytes_shared: inputs handed over as they
    lay; bytes_returned: outputs, by reference.
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
        """Return the figures by name."""
        return asdict(self)


_lock = Lock()
_counts = SandboxStats().as_dict()


def count(**increments: int) -> None:
    """Add to the running counts."""
    with _lock:
        for name, increment in increments.items():
            _counts[name] += increment


def stats() -> SandboxStats:
    """Return this process's counts so far."""
    with _lock:
        return SandboxStats(**_counts)
