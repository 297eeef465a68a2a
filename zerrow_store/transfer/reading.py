"""Reading an object from another machine into memory, over as many connections as it is worth.

The object's bytes, one allocation after the other, are cut into one part for each connection. Once
`read_object` has returned or raised, no thread writes to the memory any more.
"""

import contextlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field

from zerrow_store.errors import ObjectLackingError, ObjectLostError, ProtocolError
from zerrow_store.forks import Lock
from zerrow_store.transfer import messages as m
from zerrow_store.transfer.channel import Channel
from zerrow_store.transfer.connections import Connections

_PART_BYTES = 16 << 20
"""So many bytes are worth a connection of their own."""

_MOST_STREAMS = 4


@dataclass
class Part:
    """Pieces of allocations, and the memory that they are read into."""

    pieces: list[m.Piece] = field(default_factory=list)
    targets: list[memoryview] = field(default_factory=list)

    @property
    def nbytes(self) -> int:
        """Return the bytes of all pieces."""
        return sum(len(target) for target in self.targets)


def read_object(
    location: str,
    connections: Connections,
    object_id: bytes,
    allocations: list[m.Allocation],
    targets: list[memoryview],
) -> bytes:
    """Fill `targets` with an object's allocations; return the machine whose store says when the
    object ends, see `messages.Sending`.

    Raises ObjectLackingError if the other machine does not have the object, ObjectLostError if it
    is gone, or if the bytes arrived damaged.
    """
    total = sum(len(target) for target in targets)
    parts = split(allocations, targets, streams_for(total))
    reads = [_Read(location, connections, object_id, part) for part in parts]
    failure = reads[0].run() if len(reads) == 1 else _run_all(reads)
    if failure:
        lacking = any(read.is_lacking for read in reads)
        raise (ObjectLackingError if lacking else ObjectLostError)(
            f"object {object_id.hex()} could not be fetched from {location}: {failure}"
        )
    return reads[0].node


def streams_for(nbytes: int) -> int:
    """Return the number of connections over which `nbytes` bytes are read."""
    return max(1, min(nbytes // _PART_BYTES, _MOST_STREAMS, os.cpu_count() or 1))


def split(allocations: list[m.Allocation], targets: list[memoryview], count: int) -> list[Part]:
    """Cut allocations into `count` parts of equal size, as far as the bytes suffice."""
    total = sum(len(target) for target in targets)
    ends = [total * (n + 1) // count for n in range(count)]
    parts = [Part() for _ in range(count)]
    current = position = 0
    for (segment_id, offset, size), target in zip(allocations, targets, strict=True):
        first = 0
        while first < len(target):
            while position == ends[current]:
                current += 1
            length = min(len(target) - first, ends[current] - position)
            parts[current].pieces.append((segment_id, offset, size, first, length))
            parts[current].targets.append(target[first : first + length])
            first += length
            position += length
    return parts


def _run_all(reads: "list[_Read]") -> str:
    """Run all reads, until one fails; return the reason, or nothing."""
    failure = ""
    with ThreadPoolExecutor(len(reads), "zerrow-receive") as pool:
        for future in as_completed([pool.submit(read.run) for read in reads]):
            if not failure and (failure := future.result()):
                for read in reads:
                    read.abort()
    return failure


class _Read:
    """One part, and the connection that it is read over.

    node: see `messages.Sending`. is_lacking: see `messages.Refused`.
    """

    is_lacking = False

    def __init__(
        self, location: str, connections: Connections, object_id: bytes, part: Part
    ) -> None:
        self._location = location
        self._connections = connections
        self._object_id = object_id
        self._part = part
        self._lock = Lock()
        self._aborted = False
        self._channel: Channel | None = None
        self.node = b""

    def run(self) -> str:
        """Read the part; return what went wrong, or nothing.

        It does not raise: the frames that an exception refers to would keep the memory alive until
        Python next collects cycles.
        """
        try:
            channel, sending = self._begin()
            with self._using(channel):
                self._read(channel, sending)
            self._connections.give_back(self._location, channel)
        except (OSError, ProtocolError) as error:
            return str(error) or type(error).__name__
        return ""

    def abort(self) -> None:
        """Have `run` end soon, unless it is done."""
        with self._lock:
            self._aborted = True
            if self._channel is not None:
                self._channel.cut()

    @contextlib.contextmanager
    def _using(self, channel: Channel) -> Iterator[None]:
        """Let `abort` cut a connection while it is in use; close it if its use fails."""
        try:
            self._enter(channel)
            yield
        except BaseException:
            self._enter(None)
            channel.close()
            raise
        self._enter(None)

    def _enter(self, channel: Channel | None) -> None:
        with self._lock:
            self._channel = channel
            if self._aborted and channel is not None:
                channel.cut()

    def _begin(self) -> tuple[Channel, m.Sending]:
        channel = self._connections.idle(self._location)
        if channel is not None:
            try:
                return channel, self._ask(channel)
            except TimeoutError:
                raise
            except OSError:
                pass  # the other end has just closed it
        channel = self._connections.open(self._location)
        return channel, self._ask(channel)

    def _ask(self, channel: Channel) -> m.Sending:
        with self._using(channel):
            channel.send(m.Read(self._object_id, self._part.pieces))
            return self._answer(channel)

    def _answer(self, channel: Channel) -> m.Sending:
        answer = channel.receive(m.ANSWER)
        while isinstance(answer, m.Working):
            answer = channel.receive(m.ANSWER)
        if isinstance(answer, m.Refused):
            self.is_lacking = answer.is_lacking
            raise ProtocolError(answer.reason)
        if not isinstance(answer, m.Sending) or answer.nbytes != self._part.nbytes:
            raise ProtocolError("the other end sends something else than it was asked for")
        return answer

    def _read(self, channel: Channel, sending: m.Sending) -> None:
        self.node = sending.node
        checksum = channel.receive_into(self._part.targets)
        if channel.receive(m.ANSWER) != m.Sent(checksum):
            raise ProtocolError("what came is not what was sent")
        channel.send(m.Taken())
