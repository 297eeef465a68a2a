"""A probe of huge pages for arenas, with the reason if there are none."""

from dataclasses import dataclass

from zerrow_store.errors import HugePagesError


@dataclass(frozen=True)
class HugePages:
    """The outcome of a probe.

    Attributes
    ----------
    available
        Whether arenas can be in huge pages.
    finding
        How, or why not, in words.
    """

    available: bool
    finding: str


def probe() -> HugePages:
    """Create a file in huge pages, and look at it."""
    from zerrow_store.native import _native

    return HugePages(*_native.find_huge_pages())


def require() -> None:
    """Require an arena in huge pages, as it is configured.

    Raises
    ------
    HugePagesError
        There are no huge pages, or no arena can be created.
    """
    from zerrow_store.native import _native

    found = probe()
    if not found.available:
        raise HugePagesError(f"ZERROW_HUGE_PAGES=on: {found.finding}")
    try:
        _native.arena_segment()
    except MemoryError as error:
        raise HugePagesError(f"ZERROW_HUGE_PAGES=on: {error}") from error
