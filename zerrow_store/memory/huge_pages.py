"""Whether arenas can be in huge pages here, and if not, why exactly."""

from dataclasses import dataclass

from zerrow_store.errors import HugePagesError


@dataclass(frozen=True)
class HugePages:
    """What was found. finding: for people."""

    available: bool
    finding: str


def probe() -> HugePages:
    """Make a file in huge pages, and look at it."""
    from zerrow_store.native import _native

    return HugePages(*_native.find_huge_pages())


def require() -> None:
    """Raise HugePagesError if there are none."""
    found = probe()
    if not found.available:
        raise HugePagesError(f"ZERROW_HUGE_PAGES=on: {found.finding}")
