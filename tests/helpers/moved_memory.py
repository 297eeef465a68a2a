"""Memory that KernelZero has moved, as the kernel shows it."""

import os
import re
from pathlib import Path
from typing import Any

from zerrow_store.native import _native

PAGE = 4096


def mappings_of_moved_files() -> list[tuple[int, int]]:
    """Return the private mappings (start, end) of moved files, as the kernel shows them."""
    found = re.findall(
        r"^(\w+)-(\w+) rw-p .*zerrow-moved", Path("/proc/self/maps").read_text(), re.M
    )
    return [(int(start, 16), int(end, 16)) for start, end in found]


def publish(data: Any) -> _native.Encoded:
    return _native.encode(data, move=True)


def through(encoded: _native.Encoded) -> Any:
    return _native.decode(encoded.message, encoded)


def moved_descriptors() -> list[str]:
    """Return what this process has open of moved memory."""
    links = []
    for entry in Path("/proc/self/fd").iterdir():
        try:
            links.append(os.readlink(entry))
        except FileNotFoundError:
            continue
    return [link for link in links if "zerrow-moved" in link]
