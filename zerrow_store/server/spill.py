"""Spilling: idle objects go to a file on disk, where readers map them.

An allocation can be spilled when all objects that refer to it are *idle*: no client holds one of
them. A thread copies its bytes, so that the server keeps answering. Afterwards the objects that are
still idle refer to the file instead, and the allocation is freed like any other. If its producer
still uses the memory, the producer keeps it. Later readers are told where the bytes lie now.

The files have no names, so no crash leaves any behind. What was written is flushed and dropped from
the page cache: it would take the memory that was to be freed.
"""

import contextlib
import logging
import os
import tempfile
import threading
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from zerrow_store import _disk
from zerrow_store.protocol import events
from zerrow_store.protocol.places import NO_PROCESS, Checksum, Place, unpack
from zerrow_store.segments import punch
from zerrow_store.server.object_table import ObjectTable
from zerrow_store.server.state import State

logger = logging.getLogger("zerrow_store.server")

_DEFAULT_DIRECTORY = "/var/tmp"
_IN_MEMORY = {"tmpfs", "ramfs", "devtmpfs"}
_ALIGNMENT = 64
# The share of the disk that stays free.
_RESERVE = 0.05
# Bytes a second, until it has been measured; and the weight of the newest measurement.
_UNKNOWN_BANDWIDTH = 500e6
_UNKNOWN_PROCESSOR_BANDWIDTH = 2e9
_HIGHEST_BANDWIDTH = 1e12
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


class Batch:
    """Idle objects that are to go to disk, and the allocations that nothing but these refers to."""

    def __init__(self, table: ObjectTable) -> None:
        self._table = table
        self._seen: Counter[Place] = Counter()
        self.objects: list[bytes] = []
        self.sizes: dict[Place, int] = {}
        self.nbytes = 0

    def add(self, object_id: bytes) -> None:
        """Take an object in."""
        self.objects.append(object_id)
        for segment_id, ranges in self._table.objects[object_id].allocations:
            segment = self._table.segments[segment_id]
            if segment.spilled:
                continue
            counts = segment.references.counts(ranges)
            for (offset, size), count in zip(unpack(ranges), counts, strict=True):
                place = segment_id, offset
                self._seen[place] += 1
                if self._seen[place] == count:
                    self.sizes[place] = size
                    self.nbytes += size


@dataclass
class _Job:
    """A batch on its way to one file. offsets: in the file, by where the bytes lie now."""

    fd: int
    size: int
    batch: Batch
    offsets: dict[Place, int]
    checksums: list[Checksum] = field(default_factory=list)
    seconds: float = 0.0
    processor_seconds: float = 0.0
    error: Exception | None = None


@dataclass(frozen=True)
class Spilled:
    """What became of a batch. objects: all that were in it. nbytes: that lie on disk now, 0 if the
    disk failed or nothing was idle any more; file_id: where.
    """

    objects: list[bytes]
    nbytes: int
    file_id: bytes
    seconds: float


class Spiller:
    """Moves idle objects to files, one job at a time.

    Attributes
    ----------
    done
        A descriptor that can be read when a job is to be concluded.
    write_bandwidth, read_bandwidth
        Bytes a second, by the last jobs and by what readers report.
    processor_bandwidth
        The bytes that are written in a second of a processor's time.
    """

    def __init__(
        self,
        directory: Path | None,
        state: State,
    ) -> None:
        self._directory = directory
        self._state = state
        self._table = state.table
        self._broken_until = 0.0
        self.write_bandwidth = self.read_bandwidth = _UNKNOWN_BANDWIDTH
        self.processor_bandwidth = _UNKNOWN_PROCESSOR_BANDWIDTH
        self._job: _Job | None = None
        self.done, self._finished = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    @property
    def is_busy(self) -> bool:
        """Whether a job is under way."""
        return self._job is not None

    @property
    def is_usable(self) -> bool:
        """Whether there is a disk, and it did not fail just now."""
        return self._directory is not None and time.monotonic() >= self._broken_until

    def room(self) -> int:
        """Return the bytes that the disk has to give, 0 if it cannot be asked."""
        if self._directory is None:
            return 0
        try:
            status = os.statvfs(self._directory)
        except OSError:
            return 0
        free = status.f_bavail * status.f_frsize - _RESERVE * status.f_blocks * status.f_frsize
        return max(0, int(free))

    def seconds(self, nbytes: int) -> float:
        """Return what it is expected to take to write bytes, and to read them once."""
        return nbytes / self.write_bandwidth + nbytes / self.read_bandwidth

    def was_read(self, nbytes: int, seconds: float) -> None:
        """Learn from what a reader needed."""
        speed = min(nbytes / max(seconds, 1e-6), _HIGHEST_BANDWIDTH)
        self.read_bandwidth += _WEIGHT * (speed - self.read_bandwidth)

    def start(self, batch: Batch) -> bool:
        """Begin to write a batch; False, with nothing begun, where that cannot be."""
        assert self._job is None
        if not self.is_usable:
            return False
        offsets, end = {}, 0
        for place, size in batch.sizes.items():
            offsets[place] = end
            end += -(-size // _ALIGNMENT) * _ALIGNMENT
        sources: dict[bytes, int] = {}
        fd = -1
        try:
            fd = self._open(end)
            # Duplicates: a segment may end while it is read.
            for segment_id in {segment for segment, _ in batch.sizes}:
                sources[segment_id] = os.dup(self._state.descriptors[segment_id])
            job = _Job(fd, end, batch, offsets)
            thread = threading.Thread(target=self._copy, args=(job, sources), name="zerrow-spill")
            thread.start()
        except (OSError, RuntimeError) as error:  # RuntimeError: no more threads
            self._failed(error)
            for each in (fd, *sources.values()):
                if each >= 0:
                    os.close(each)
            return False
        self._job = job
        return True

    def conclude(self) -> Spilled:
        """Enter the finished job into the object table: what is idle still has moved."""
        with contextlib.suppress(BlockingIOError):
            os.read(self.done, 64)
        job, self._job = self._job, None
        assert job is not None
        if job.error is not None:
            self._failed(job.error)
            os.close(job.fd)
            return Spilled(job.batch.objects, 0, b"", job.seconds)
        speed = job.batch.nbytes / max(job.seconds, 1e-6)
        self.write_bandwidth += _WEIGHT * (speed - self.write_bandwidth)
        speed = job.batch.nbytes / max(job.processor_seconds, 1e-6)
        self.processor_bandwidth += _WEIGHT * (speed - self.processor_bandwidth)
        objects = [object_id for object_id in job.batch.objects if self._state.is_idle(object_id)]
        by_segment = self._moves(job, objects)
        if not by_segment:
            os.close(job.fd)
            return Spilled(job.batch.objects, 0, b"", job.seconds)
        file_id = os.urandom(16)
        self._state.mark_dead(file_id)  # like the segment of a process that has ended
        before = self._table.bytes_spilled
        added = events.SegmentAdded(file_id, job.size, NO_PROCESS, 0)
        self._state.add_segment(added, job.fd)
        self._state.change(events.SegmentOnDisk(file_id, job.checksums))
        for segment_id, moves in by_segment.items():
            concerned = [o for o in objects if self._refers(o, segment_id)]
            spilled = events.AllocationsSpilled(concerned, segment_id, moves, file_id)
            self._state.give_back(self._state.change(spilled))
        for start, end in self._table.segments[file_id].references.gaps(job.size):
            punch(job.fd, start, end)
        moved = self._table.bytes_spilled - before
        return Spilled(job.batch.objects, moved, file_id, job.seconds)

    def _failed(self, error: Exception) -> None:
        logger.warning("could not spill to %s: %s", self._directory, error)
        self._broken_until = time.monotonic() + _BROKEN_SECONDS

    def _moves(self, job: _Job, objects: list[bytes]) -> dict[bytes, dict[int, int]]:
        """Return, for each segment, the new offset of what nothing but `objects` refers to."""
        seen: Counter[Place] = Counter()
        moves: defaultdict[bytes, dict[int, int]] = defaultdict(dict)
        for object_id in objects:
            for segment_id, ranges in self._table.objects[object_id].allocations:
                counts = self._table.segments[segment_id].references.counts(ranges)
                for (offset, size), count in zip(unpack(ranges), counts, strict=True):
                    place = segment_id, offset
                    seen[place] += 1
                    # An allocation may have been freed, and another one made in its place.
                    if seen[place] == count and job.batch.sizes.get(place) == size:
                        moves[segment_id][offset] = job.offsets[place]
        return moves

    def _refers(self, object_id: bytes, segment_id: bytes) -> bool:
        return any(s == segment_id for s, _ in self._table.objects[object_id].allocations)

    def _open(self, size: int) -> int:
        assert self._directory is not None
        if size > (room := self.room()):
            raise OSError(f"{room:,} bytes are free, {size:,} are needed")
        # Without a name (O_TMPFILE); on file systems that cannot do that, with one for a moment.
        with tempfile.TemporaryFile(dir=self._directory, buffering=0) as file:
            fd = os.dup(file.fileno())
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
            for (segment_id, offset), size in job.batch.sizes.items():
                at = job.offsets[segment_id, offset]
                checksum = _copy_allocation(sources[segment_id], offset, size, job.fd, at)
                job.checksums.append((at, size, checksum))
            os.fdatasync(job.fd)
            os.posix_fadvise(job.fd, 0, 0, os.POSIX_FADV_DONTNEED)
        except Exception as error:  # whatever it is: nothing has moved
            job.error = error
        finally:
            job.seconds = time.monotonic() - start
            job.processor_seconds = time.thread_time()
            for fd in sources.values():
                os.close(fd)
            os.write(self._finished, b"!")


def _copy_allocation(source: int, offset: int, size: int, target: int, at: int) -> int:
    """Copy an allocation; return its checksum: a wrong one if its producer has truncated its file,
    so that whoever reads it is told that it is lost.
    """
    try:
        return _disk.copy(source, offset, size, target, at)
    except OSError:
        if os.fstat(source).st_size >= offset + size:
            raise
        return _disk.checksum(target, at, size) ^ 1
