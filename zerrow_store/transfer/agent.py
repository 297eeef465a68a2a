"""The transfer agent: the process that moves a store's objects between machines.

It sends the store's objects to other machines, lands theirs, and keeps track of objects whose
owners are on other machines. The first process that needs the agent starts it (see `local`), as
`python -m zerrow_store.transfer.agent`, or the store runs it as its companion. It has a process of
its own so that it neither waits for another process's Python code nor holds it up. It ends with its
store. It listens for other machines only on the addresses that it is told to listen on. Objects
that it has landed lie in its arena, which outlives the agent as long as anybody reads them.
"""

import argparse
import contextlib
import logging
import os
import socket
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from zerrow_store import logs, threads
from zerrow_store.errors import InternalError, ProtocolError, StoreUnavailableError, ZerrowError
from zerrow_store.forks import Lock
from zerrow_store.processes import allow_many_descriptors
from zerrow_store.protocol import sockets
from zerrow_store.protocol.wire_errors import describe
from zerrow_store.transfer import messages as m
from zerrow_store.transfer.channel import Channel
from zerrow_store.transfer.security import Security

if TYPE_CHECKING:
    from zerrow_store.transfer.landing import Landed
    from zerrow_store.transfer.segment_files import FileClient
    from zerrow_store.transfer.sender import Sender

logger = logging.getLogger("zerrow_store.transfer")

_PAUSE_SECONDS = 0.1

_IDLE_SECONDS = 5
"""How long an unused connection of a local process is kept."""


class Agent:
    """Answers the processes of this machine, each connection in a thread of its own."""

    def __init__(self, client: "FileClient", security: Security, listener: socket.socket) -> None:
        from zerrow_store.transfer.followers import Followers
        from zerrow_store.transfer.neighbours import Neighbours
        from zerrow_store.transfer.receiver import Receiver

        self._client = client
        self._security = security
        self._listener = listener
        self._followers = Followers(client)
        self.neighbours = Neighbours(client, security, self._followers)
        self._receiver = Receiver(client, security, self.neighbours)
        self._lock = Lock()
        self._senders: dict[str, Sender] = {}

    def start(self) -> None:
        """Begin to answer. Processes that connected earlier have been waiting for this."""
        threads.start(self._accept, name="zerrow-agent-accept")

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
                if sockets.peer(sock)[1] != os.getuid():
                    logger.warning("refused a process of user %d", sockets.peer(sock)[1])
                    sock.close()
                    continue
                threading.Thread(
                    target=self._serve, args=[sock], name="zerrow-agent", daemon=True
                ).start()
            except (OSError, RuntimeError) as error:  # out of descriptors, or of threads
                logger.warning("cannot take a connection: %s", error)
                time.sleep(_PAUSE_SECONDS)

    def _serve(self, sock: socket.socket) -> None:
        # A landed object is held here until the process says that it holds it, or hangs up.
        kept: list[Landed] = []
        try:
            with Channel(sock) as channel:
                idle = False
                while not idle or channel.is_readable(_IDLE_SECONDS):
                    asked = channel.receive(m.ASKED)
                    kept.clear()
                    idle = isinstance(asked, m.Taken)
                    if not isinstance(asked, m.Taken):
                        channel.send(self._answer(asked, kept))
        except ProtocolError as error:
            logger.warning("dropped a process: %s", error)
        except OSError:
            pass  # it has hung up

    def _answer(self, asked: m.Serve | m.Fetch, kept: "list[Landed]") -> m.Message:
        try:
            if isinstance(asked, m.Serve):
                return m.Serving(self.serve_on(asked.host))
            landed = self._receiver.fetch(asked.location, asked.object_id, asked.allocations)
            kept.append(landed)
            return m.Landed(landed.object_id, landed.places)
        except ZerrowError as error:
            return m.Failed(describe(error))
        except Exception as error:
            logger.exception("a request failed")
            return m.Failed(describe(InternalError(f"the transfer agent failed: {error!r}")))

    def serve_on(self, host: str) -> str:
        """Serve other machines on an address; return the location. Raises StoreUnavailableError."""
        from zerrow_store.transfer.sender import Sender

        with self._lock:
            if host not in self._senders:
                try:
                    self._senders[host] = Sender(
                        self._client, self._security, host, self._followers
                    )
                except OSError as error:
                    raise StoreUnavailableError(f"cannot serve on {host}: {error}") from error
            location = self._senders[host].location
            self._receiver.served_at = self._receiver.served_at or location
            return location

    def update(self, locations: dict[bytes, str]) -> None:
        """Take note of the cluster's other machines; see `Neighbours.update`."""
        self.neighbours.update(locations)
        with self._lock:
            senders = list(self._senders.values())
        for sender in senders:
            sender.tracker.retain(set(locations.values()))


def wait_for_end(store: str) -> None:
    """Return when the store has ended. While its server restarts, new connections wait in the
    listener's queue; only a store that has ended refuses them.
    """
    while True:
        try:
            connection = sockets.connect(store)
        except StoreUnavailableError:
            return
        with connection, contextlib.suppress(OSError):
            while connection.recv(1 << 16):
                pass
        time.sleep(_PAUSE_SECONDS)


def make(store: str, security: Security, listener: socket.socket) -> Agent:
    """Return the agent of a store, which accepts connections from `listener` once it is started.

    Raises StoreUnavailableError.
    """
    from zerrow_store import memory
    from zerrow_store.transfer.segment_files import FileClient

    allow_many_descriptors()
    memory.start()
    client = FileClient(store)
    log = Path(client.stats().log)
    logs.start(log.with_name(f"{log.stem}-transfer{log.suffix}"))
    logger.info("the transfer agent of the store %s is started", store)
    agent = Agent(client, security, listener)
    client.listen(agent.neighbours)
    return agent


def main() -> None:
    parser = argparse.ArgumentParser(description="The transfer agent of a node store.")
    parser.add_argument("--store", required=True)
    parser.add_argument("--listener-fd", type=int, required=True)
    arguments = parser.parse_args()
    security = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=Security)
    # Detach from the process that started the agent: the agent outlives it.
    if os.fork():
        os._exit(0)
    try:
        make(arguments.store, security, socket.socket(fileno=arguments.listener_fd)).start()
        wait_for_end(arguments.store)
        logger.info("the store %s has ended", arguments.store)
    except StoreUnavailableError as error:
        logger.warning("the transfer agent ends: %s", error)
    os._exit(0)  # without joining the threads, which may be waiting for other machines


if __name__ == "__main__":
    main()
