"""Reading of a single file, repeated until it does not change meanwhile."""

import os
from collections.abc import Callable
from typing import Any, TypeVar

import pyarrow.fs as pafs

from zerrow_store.decache.files import FileChangedError, OpenFile, opened

T = TypeVar("T")

ATTEMPTS = 10


def read_stable(source: Any, filesystem: Any, read: Callable[[OpenFile], T]) -> T:
    """Open a file and `read` it; repeat that if the file changes meanwhile.

    Parameters
    ----------
    source
        A path, or a URI of a file system that pyarrow knows.
    filesystem
        The pyarrow file system of a path.
    read
        Reads the open file.

    Raises
    ------
    TypeError
        `source` is no path.
    OSError
        As `open`; or the file changed at every attempt.
    """
    if not isinstance(source, str | os.PathLike):
        raise TypeError(f"a path is needed, not {type(source).__name__}")
    place, path = _resolve(source, filesystem)
    for _ in range(ATTEMPTS):
        try:
            with opened(path, place) as file:
                return read(file)
        except FileChangedError:
            continue
    raise changes_all_the_time(path)


def changes_all_the_time(path: str) -> OSError:
    """Return the error for a file that changed at every attempt."""
    return OSError(f"{path} changes all the time: it cannot be read")


def _resolve(source: Any, filesystem: Any) -> tuple[pafs.FileSystem | None, str]:
    path = os.fspath(source)
    if filesystem is None and os.path.exists(path):
        return None, path
    # pyarrow's own resolution, which is private.
    place, path = pafs._resolve_filesystem_and_path(path, filesystem)
    return place, path
