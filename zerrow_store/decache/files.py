"""Files with an identity that changes when they change.

A file is opened first: a process that may not read it gets nothing of it, cached or not. A local
file is read through the descriptor that was identified, so a file that replaces it under its name
meanwhile is not mistaken for it. Timestamps have the resolution of the kernel's clock tick: a
further change of a file that changed a moment ago may be invisible, so identification waits that
moment out.
"""

import contextlib
import hashlib
import json
import os
import pickle
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs

_TICK_NS = 20_000_000  # a kernel tick is 10 ms at most
_SECOND_NS = 1_000_000_000
# fsspec's file systems whose contents exist in this process only.
_PRIVATE_PROTOCOLS = {"memory", "dir", "reference"}
# The names that file systems use for a file's version, and for its time of change.
_MARKS = ("ETag", "etag", "version_id", "VersionId", "version", "generation")
_TIMES = ("mtime", "LastModified", "last_modified", "modified")


class FileChangedError(Exception):
    """A file changed while it was read. The bytes that were read are no version of it."""


class OpenFile(ABC):
    """A file that is open for reading.

    Attributes
    ----------
    path
        Its path, with the scheme of a remote file system.
    identity
        A digest that changes when the file does; None if a change could be invisible.
    """

    def __init__(self, path: str, identity: bytes | None) -> None:
        self.path = path
        self.identity = identity

    @abstractmethod
    def open(self) -> pa.NativeFile:
        """Return a new handle for reading."""

    @abstractmethod
    def current_identity(self) -> bytes | None:
        """Return the identity of the file as it is now."""

    def check_unchanged(self) -> None:
        """Check that the file is as it was when it was opened.

        Raises
        ------
        FileChangedError
            It is not.
        """
        if self.identity is not None and self.current_identity() != self.identity:
            raise FileChangedError(self.path)


class LocalFile(OpenFile):
    """A local file, identified by device, inode, size and both times of change."""

    def __init__(self, path: str) -> None:
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            super().__init__(os.path.abspath(path), self._settled_identity())
        except BaseException:
            os.close(self._fd)
            raise

    def open(self) -> pa.NativeFile:
        return pa.OSFile(f"/proc/self/fd/{self._fd}")

    def map(self) -> pa.NativeFile:
        """Return the file, mapped."""
        return pa.memory_map(f"/proc/self/fd/{self._fd}")

    def current_identity(self) -> bytes | None:
        return _local_identity(os.fstat(self._fd))

    def close(self) -> None:
        os.close(self._fd)

    def _settled_identity(self) -> bytes | None:
        """Return the identity; None if the file could change without new timestamps."""
        status = os.fstat(self._fd)
        age = time.time_ns() - max(status.st_mtime_ns, status.st_ctime_ns)
        if status.st_mtime_ns % _SECOND_NS == 0 and abs(age) < 2 * _SECOND_NS:
            return None  # the file system's times may be in seconds
        if 0 <= age < _TICK_NS:
            time.sleep((_TICK_NS - age) / _SECOND_NS)
            status = os.fstat(self._fd)
        return _local_identity(status)


class RemoteFile(OpenFile):
    """A file of a pyarrow file system, identified by size and ETag, version or time of change."""

    def __init__(self, path: str, filesystem: pafs.FileSystem) -> None:
        self._filesystem = filesystem
        self._name = path
        filesystem.open_input_file(path).close()
        super().__init__(path if "://" in path else f"{_scheme(filesystem)}://{path}", None)
        self.identity = self.current_identity()

    def open(self) -> pa.NativeFile:
        return self._filesystem.open_input_file(self._name)

    def current_identity(self) -> bytes | None:
        place = _place(self._filesystem)
        version = None if place is None else _version(self._filesystem, self._name)
        return None if version is None else _digest("remote", place, self._name, version)


@contextlib.contextmanager
def opened(path: str, filesystem: pafs.FileSystem | None = None) -> Iterator[OpenFile]:
    """Open a file for the `with` block.

    Raises
    ------
    OSError
        As `open`.
    """
    if filesystem is None or (local := local_path(path, filesystem)) is not None:
        file = LocalFile(path if filesystem is None else str(local))
        try:
            yield file
        finally:
            file.close()
    else:
        yield RemoteFile(path, filesystem)


def local_path(path: str, filesystem: pafs.FileSystem) -> str | None:
    """Return the file's path on this machine; None for a remote file."""
    if isinstance(filesystem, pafs.LocalFileSystem):
        return path
    if isinstance(filesystem, pafs.SubTreeFileSystem):
        return local_path(filesystem.base_path + path, filesystem.base_fs)
    return None


def is_identifiable(filesystem: pafs.FileSystem) -> bool:
    """Return whether other processes can be known to see the same files of a file system."""
    return local_path("", filesystem) is not None or _place(filesystem) is not None


def _local_identity(status: os.stat_result) -> bytes:
    fields = (status.st_dev, status.st_ino, status.st_size)
    return _digest("local", *fields, status.st_mtime_ns, status.st_ctime_ns)


def _digest(*parts: Any) -> bytes:
    return hashlib.blake2b(repr(parts).encode(), digest_size=16).digest()


def _fsspec(filesystem: pafs.FileSystem) -> Any:
    handler = getattr(filesystem, "handler", None)
    return handler.fs if isinstance(handler, pafs.FSSpecHandler) else None


def _scheme(filesystem: pafs.FileSystem) -> str:
    fs = _fsspec(filesystem)
    if fs is None:
        return str(filesystem.type_name)
    protocol = fs.protocol
    return protocol if isinstance(protocol, str) else str(protocol[0])


def _place(filesystem: pafs.FileSystem) -> str | None:
    """Return a key of the file system, the same in all processes; None if only this one has it."""
    fs = _fsspec(filesystem)
    if fs is not None:
        protocols = {fs.protocol} if isinstance(fs.protocol, str) else set(fs.protocol)
        return None if protocols & _PRIVATE_PROTOCOLS else str(fs.to_json())
    if isinstance(filesystem, pafs.PyFileSystem) or filesystem.type_name == "mock":
        return None
    try:
        return hashlib.sha256(pickle.dumps(filesystem)).hexdigest()
    except (TypeError, pickle.PicklingError):
        return None


def _version(filesystem: pafs.FileSystem, path: str) -> str | None:
    """Return size and version, or time of change; None if a change could be invisible.

    A time alone may be in whole seconds, so a change within two seconds could be.
    """
    fs = _fsspec(filesystem)
    if fs is None:
        with filesystem.open_input_file(path) as file:
            size, told = file.size(), file.metadata()
        if marks := _marks(told):
            return json.dumps([size, marks])
        status = filesystem.get_file_info(path)
        changed = None if status.mtime_ns is None else status.mtime_ns / _SECOND_NS
        return _unless_recent(changed, [status.size, status.mtime_ns])
    fs.invalidate_cache(path)
    info = fs.info(path)
    if marks := _marks(info):
        return json.dumps([info.get("size"), marks])
    times = [info[name] for name in _TIMES if info.get(name)]
    if not times:
        return None
    changed = times[0].timestamp() if isinstance(times[0], datetime) else float(times[0])
    return _unless_recent(changed, [info.get("size"), changed])


def _marks(info: Mapping[str, Any]) -> list[str]:
    """The marks of a file's version. A weak ETag is none: bytes may change under it (RFC 9110)."""
    marks = [str(info[name]) for name in _MARKS if info.get(name)]
    return [] if any(mark.startswith("W/") for mark in marks) else marks


def _unless_recent(changed: float | None, version: list[Any]) -> str | None:
    return json.dumps(version) if changed is not None and changed < time.time() - 2 else None
