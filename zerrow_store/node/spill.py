"""Spilling: what nobody reads goes to a file on disk, and is read there by mapping it.

An allocation can go when all objects that refer to it are *idle*: no client holds one. Its bytes
are copied by a thread, so that the server keeps answering; then, as far as the objects are idle
still, they refer to the file instead, and the allocation is freed like any other. A process that
made it and still uses it keeps it: it is only not the store's any more. Readers who come later are
told where the bytes lie now.

The files have no names (O_TMPFILE): nothing is left behind by any crash. What was written is
flushed and dropped from the page cache, as it would otherwise take the memory that was to be freed.
"""

import contextlib
import logging
import os
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zerrow_store.node.books import NO_PROCESS, Books, Freed, Place, unpack
from zerrow_store.node.segments import punch

logger = logging.getLogger("zerrow_store.server")

_DEFAULT_DIRECTORY = "/var/tmp"
_IN_MEMORY = {"tmpfs", "ramfs", "devtmpfs"}
_ALIGNMENT = 64
# As much of the disk stays free for others.
_RESERVE = 0.05
_PIECE = 64 << 20
# Bytes a second, until it has been measured; and the weight of the newest measurement.
_UNKNOWN_BANDWIDTH = 500e6
_WEIGHT = 0.5
# A disk that fails is not tried again for so long.
_BROKEN_SECONDS = 10.0


def spill_directory() -> Path | None:
    """Return where to spill: ZERROW_SPILL_DIR, or /var/tmp; None if that is "off" or in memory."""
    text = os.environ.get("ZERROW_SPILL_DIR", _DEFAULT_DIRECTORY)
    if text == "off":
        return None
    directory = Path(text)
    try:
        kind = _file_system(directory)
    except OSError as error:
        logger.warning("nothing is spilled: %s", error)
        return None
    if kind in _IN_MEMORY:
        logger.warning("nothing is spilled: %s is in memory itself (%s)", directory, kind)
        return None
    return directory


def _file_system(directory: Path) -> str:
    device = os.stat(directory).st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        if before.split()[2] == wanted:
            return after.split()[0]
    return "unknown"


@dataclass
class _Job:
    """Bytes on their way to one file. offsets: in the file, by where they lie now."""

    fd: int
    size: int
    objects: list[bytes]
    sizes: dict[Place, int]
    offsets: dict[Place, int]
    seconds: float = 0.0
    error: Exception | None = None


class Spiller:
    """Moves idle objects to files, one job at a time. What it needs of the server it is given.

    dead: segments whose memory is this server's to give back. is_idle: whether an object is there
    and nobody holds it. change: applies an event, and returns what it freed. give_back: passes that
    on. `done` is a descriptor that can be read when a job is to be concluded. bandwidth: bytes a
    second written, by the last jobs.
    """

    def __init__(
        self,
        directory: Path | None,
        books: Books,
        descriptors: dict[bytes, int],
        dead: set[bytes],
        *,
        is_idle: Callable[[bytes], bool],
        change: Callable[[str, list[Any]], Freed],
        give_back: Callable[[Freed], None],
    ) -> None:
        self._directory = directory
        self._books = books
        self._descriptors = descriptors
        self._dead = dead
        self._broken_until = 0.0
        self.bandwidth = _UNKNOWN_BANDWIDTH
        self._is_idle = is_idle
        self._change = change
        self._give_back = give_back
        self._job: _Job | None = None
        self.done, self._finished = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def start(self, idle: Iterable[bytes], wanted: int) -> bool:
        """Begin to free `wanted` bytes, the first of `idle` first; whether there is anything."""
        if self._job is not None:
            return True
        if self._directory is None or wanted <= 0 or time.monotonic() < self._broken_until:
            return False
        objects, sizes = self._choose(idle, wanted)
        if not sizes:
            return False
        offsets, end = {}, 0
        for place, size in sizes.items():
            offsets[place] = end
            end += -(-size // _ALIGNMENT) * _ALIGNMENT
        sources: dict[bytes, int] = {}
        fd = -1
        try:
            fd = self._open(end)
            # Duplicates: a segment may end while it is read.
            for segment_id in {segment for segment, _ in sizes}:
                sources[segment_id] = os.dup(self._descriptors[segment_id])
            job = _Job(fd, end, objects, sizes, offsets)
            thread = threading.Thread(target=self._copy, args=(job, sources), name="zerrow-spill")
            thread.start()
        except (OSError, RuntimeError) as error:  # RuntimeError: no more threads
            logger.warning("nothing can be spilled to %s: %s", self._directory, error)
            for each in (fd, *sources.values()):
                if each >= 0:
                    os.close(each)
            return False
        self._job = job
        return True

    def conclude(self) -> None:
        """Enter a finished job into the books: what is idle still has moved."""
        with contextlib.suppress(BlockingIOError):
            os.read(self.done, 64)
        job, self._job = self._job, None
        assert job is not None
        if job.error is not None:
            logger.warning("could not spill to %s: %s", self._directory, job.error)
            self._broken_until = time.monotonic() + _BROKEN_SECONDS
            os.close(job.fd)
            return
        speed = sum(job.sizes.values()) / max(job.seconds, 1e-6)
        self.bandwidth += _WEIGHT * (speed - self.bandwidth)
        objects = [object_id for object_id in job.objects if self._is_idle(object_id)]
        by_segment = self._moves(job, objects)
        if not by_segment:
            os.close(job.fd)
            return
        file_id = os.urandom(16)
        self._descriptors[file_id] = job.fd
        self._dead.add(file_id)  # like the segment of a process that has ended
        self._change("segment", [file_id, job.size, NO_PROCESS, 0])
        self._change("on_disk", [file_id])
        for segment_id, moves in by_segment.items():
            concerned = [o for o in objects if self._refers(o, segment_id)]
            self._give_back(self._change("spill", [concerned, segment_id, moves, file_id]))
        for start, end in self._books.segments[file_id].references.gaps(job.size):
            punch(job.fd, start, end)

    def _choose(self, idle: Iterable[bytes], wanted: int) -> tuple[list[bytes], dict[Place, int]]:
        """Return objects, and what nothing but these refers to, with its size."""
        seen: Counter[Place] = Counter()
        objects: list[bytes] = []
        sizes: dict[Place, int] = {}
        found = 0
        for object_id in idle:
            if found >= wanted:
                break
            objects.append(object_id)
            for segment_id, ranges in self._books.objects[object_id].allocations:
                segment = self._books.segments[segment_id]
                if segment.spilled:
                    continue
                counts = segment.references.counts(ranges)
                for (offset, size), count in zip(unpack(ranges), counts, strict=True):
                    seen[segment_id, offset] += 1
                    if seen[segment_id, offset] == count:
                        sizes[segment_id, offset] = size
                        found += size
        return objects, sizes

    def _moves(self, job: _Job, objects: list[bytes]) -> dict[bytes, dict[int, int]]:
        """Return, for each segment, the new offset of what nothing but `objects` refers to."""
        seen: Counter[Place] = Counter()
        moves: defaultdict[bytes, dict[int, int]] = defaultdict(dict)
        for object_id in objects:
            for segment_id, ranges in self._books.objects[object_id].allocations:
                counts = self._books.segments[segment_id].references.counts(ranges)
                for (offset, size), count in zip(unpack(ranges), counts, strict=True):
                    place = segment_id, offset
                    seen[place] += 1
                    # An allocation may have been freed, and another one made in its place.
                    if seen[place] == count and job.sizes.get(place) == size:
                        moves[segment_id][offset] = job.offsets[place]
        return moves

    def _refers(self, object_id: bytes, segment_id: bytes) -> bool:
        return any(s == segment_id for s, _ in self._books.objects[object_id].allocations)

    def _open(self, size: int) -> int:
        assert self._directory is not None
        status = os.statvfs(self._directory)
        free = status.f_bavail * status.f_frsize - _RESERVE * status.f_blocks * status.f_frsize
        if size > free:
            raise OSError(f"it has {max(0, int(free)):,} bytes to give, not {size:,}")
        fd = os.open(self._directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(fd, size)
            os.posix_fallocate(fd, 0, size)
        except OSError:
            os.close(fd)
            raise
        return fd

    def _copy(self, job: _Job, sources: dict[bytes, int]) -> None:
        start = time.monotonic()
        try:
            for (segment_id, offset), size in job.sizes.items():
                _copy_range(
                    sources[segment_id], offset, job.fd, job.offsets[segment_id, offset], size
                )
            os.fdatasync(job.fd)
            os.posix_fadvise(job.fd, 0, 0, os.POSIX_FADV_DONTNEED)
        except Exception as error:  # whatever it is: nothing has moved
            job.error = error
        finally:
            job.seconds = time.monotonic() - start
            for fd in sources.values():
                os.close(fd)
            os.write(self._finished, b"!")


def _copy_range(source: int, offset: int, target: int, at: int, size: int) -> None:
    os.lseek(target, at, os.SEEK_SET)
    while size:
        copied = os.sendfile(target, source, offset, min(size, _PIECE))
        if copied == 0:
            raise OSError("a segment is shorter than it was")
        offset, size = offset + copied, size - copied
