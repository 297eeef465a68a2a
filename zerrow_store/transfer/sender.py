"""The sending side: serves a store's objects to other machines, in a thread for each connection.

Requests are treated as hostile. Only allocations that the object refers to are sent, and only of
objects that are there. The object is held until the peer says that it has arrived, or hangs up:
when a packet is lost, the kernel reads the segment again, which must not have changed by then.

A peer that has not yet proved that it knows the secret costs a thread and a descriptor. At most
`_MOST_STRANGERS` such peers are connected; a further one ends the oldest connection.
"""

import logging
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from functools import partial
from typing import TypeVar

from zerrow_store import threads
from zerrow_store.client.holds import Hold
from zerrow_store.errors import (
    ObjectLostError,
    ObjectNotFoundError,
    ProtocolError,
    ZerrowError,
)
from zerrow_store.forks import Lock
from zerrow_store.transfer import messages as m
from zerrow_store.transfer.channel import WORKING_SECONDS, Acceptor, Channel, Range, join_location
from zerrow_store.transfer.followers import Followers
from zerrow_store.transfer.security import Security
from zerrow_store.transfer.segment_files import FileClient, SegmentFile
from zerrow_store.transfer.tracker import Tracker

logger = logging.getLogger("zerrow_store.transfer")

T = TypeVar("T")

_MOST_PEERS = 1024
_MOST_STRANGERS = 32
_WORKERS = 8
_PAUSE_SECONDS = 0.1

_IDLE_SECONDS = 5
"""How long an idle connection is kept. A thousand machines may have some."""


class Sender:
    """Serves the objects of `client`'s store, and its copies, on an address.

    host: the address to listen on. location: host and port. followers: the machines that are told
    when owners on this machine delete objects. Raises OSError if the address cannot be used.
    """

    def __init__(
        self,
        client: FileClient,
        security: Security,
        host: str,
        followers: Followers,
    ) -> None:
        self._client = client
        self._followers = followers
        self.tracker = Tracker(client)
        self._acceptor = Acceptor(security)
        family, *_, address = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
        self._listener = socket.create_server(address[:2], family=family, backlog=512)
        self.location = join_location(host, self._listener.getsockname()[1])
        self._workers = ThreadPoolExecutor(_WORKERS, "zerrow-send-work")
        self._room = threading.BoundedSemaphore(_MOST_PEERS)
        self._lock = Lock()
        self._strangers: dict[socket.socket, None] = {}
        threads.start(self._accept, name="zerrow-send-accept")

    def _accept(self) -> None:
        while True:
            self._room.acquire()
            try:
                sock, _ = self._listener.accept()
            except OSError as error:  # out of descriptors: until some are closed
                logger.warning("cannot take a connection: %s", error)
                self._room.release()
                time.sleep(_PAUSE_SECONDS)
            else:
                self._begin(sock)

    def _begin(self, sock: socket.socket) -> None:
        try:
            sock = self._acceptor.wrap(sock)
            thread = threading.Thread(
                target=self._serve, args=[sock], name="zerrow-send", daemon=True
            )
            self._enter(sock)
            thread.start()
        except (OSError, RuntimeError) as error:  # the peer has hung up, or no thread can start
            logger.warning("cannot take a connection: %s", error)
            self._leave(sock)
            sock.close()
            self._room.release()

    def _enter(self, sock: socket.socket) -> None:
        with self._lock:
            self._strangers[sock] = None
            if len(self._strangers) > _MOST_STRANGERS:
                oldest = next(iter(self._strangers))
                del self._strangers[oldest]
                Channel(oldest).cut()

    def _leave(self, sock: socket.socket) -> None:
        with self._lock:
            self._strangers.pop(sock, None)

    def _serve(self, sock: socket.socket) -> None:
        peer = "a peer"
        try:
            with sock:
                peer = str(sock.getpeername()[0])
                try:
                    channel = self._acceptor.greet(sock)
                finally:
                    self._leave(sock)
                with channel:
                    self._answer(channel)
        except ProtocolError as error:
            logger.warning("dropped %s: %s", peer, error)
        except OSError as error:
            logger.info("lost %s: %s", peer, error)
        except Exception:
            logger.exception("a transfer to %s failed", peer)
        finally:
            self._room.release()

    def _answer(self, channel: Channel) -> None:
        """Answer requests until the peer hangs up, or asks for nothing more."""
        plan: _Plan | None = None
        idle = False
        while not idle or channel.is_readable(_IDLE_SECONDS):
            try:
                request = channel.receive(m.REQUEST)
            except OSError:  # the peer has what it wanted, or is gone
                return
            plan = None  # the object was held until here: see the module
            idle = isinstance(request, m.Taken)
            if isinstance(request, m.Taken):
                continue
            if isinstance(request, m.Follow):
                self._followers.serve(channel, request)
                return
            if isinstance(request, m.Seek):
                self.tracker.serve(channel, request)
                return
            if isinstance(request, m.Figures):
                channel.send(m.Figured(self._client.report(request.what)))
                continue
            if isinstance(request, m.Ahead):
                ahead = self._client.spill_ahead if request.spill else self._client.read_ahead
                ahead(request.object_ids)
                channel.send(m.Done())
                continue
            try:
                plan = self._patiently(channel, partial(self._plan, request))
            except ZerrowError as error:
                logger.info("refused to send %s: %s", request.object_id.hex(), error)
                channel.send(m.Refused(str(error)[:1000], isinstance(error, ObjectNotFoundError)))
                continue
            channel.send(m.Sending(sum(each.size for each in plan.ranges), plan.node))
            channel.send(m.Sent(channel.send_files(plan.ranges)))
            self._client.count_transfer(sent_bytes=sum(each.size for each in plan.ranges))

    def _patiently(self, channel: Channel, work: Callable[[], T]) -> T:
        """Do work that may take long, and tell the peer meanwhile that this end is at work."""
        future = self._workers.submit(work)
        try:
            while not wait([future], WORKING_SECONDS).done:
                channel.send(m.Working())
            return future.result()
        finally:
            del future  # its error refers to this frame, and to the frame that holds the object

    def _plan(self, request: m.Read) -> "_Plan":
        """Return where the requested bytes lie now. Raises ZerrowError if they cannot be sent."""
        hold, allocations, node = self._client.hold_all(request.object_id)
        sizes = {(segment_id, offset): size for segment_id, offset, size in allocations}
        # The peer names allocations as the message does. Here they may lie elsewhere.
        lies_at = {place: place for place in sizes.keys() - set(hold.moved.values())} | hold.moved
        places = []
        for segment_id, offset, size, first, length in request.pieces:
            place = lies_at.get((segment_id, offset))
            there = -1 if place is None else sizes.get(place, -1)
            # An allocation of a copy may be larger than its original.
            fits = size <= there if (segment_id, offset) in hold.moved else size == there
            if place is None or not fits or first + length > size:
                raise ObjectLostError("the object has no such allocations")
            places.append(place)
        self._client.ensure_places(set(places), hold)
        files = self._client.files({segment_id for segment_id, _ in places})
        ranges = [
            Range(files[segment_id].fd, offset + first, length)
            for (segment_id, offset), (*_, first, length) in zip(
                places, request.pieces, strict=True
            )
        ]
        return _Plan(hold, list(files.values()), ranges, node)


class _Plan:
    """Ranges to send, and what must be kept until they have arrived. node: `messages.Sending`'s."""

    def __init__(
        self, hold: Hold, files: list[SegmentFile], ranges: list[Range], node: bytes
    ) -> None:
        self._kept = hold, files
        self.ranges = ranges
        self.node = node
