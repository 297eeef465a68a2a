"""The kernel's setting of which shared memory has huge pages. Needs root."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

_SETTING = Path("/sys/kernel/mm/transparent_hugepage/shmem_enabled")


@contextlib.contextmanager
def shared_huge_pages(choice: str) -> Iterator[None]:
    """Have none ("never"), or what asks for them ("advise"); at the end as it was."""
    settings = _SETTING.read_text()
    before = settings[settings.index("[") + 1 : settings.index("]")]
    _SETTING.write_text(choice)
    try:
        yield
    finally:
        _SETTING.write_text(before)
