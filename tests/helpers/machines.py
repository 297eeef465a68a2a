"""Stores that stand for machines, and objects on their way between them."""

import os
import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import pyarrow as pa

from tests.helpers.owners import OWNER, PUBLISH
from tests.helpers.processes import processes
from tests.helpers.stores import Store
from tests.helpers.waiting import wait_until
from zerrow_store.client.client import Allocations, Client
from zerrow_store.client.holds import Hold
from zerrow_store.native import _native
from zerrow_store.protocol.messages import Watch
from zerrow_store.transfer import local
from zerrow_store.transfer.followers import Followers
from zerrow_store.transfer.neighbours import Neighbours
from zerrow_store.transfer.receiver import Receiver
from zerrow_store.transfer.security import Security
from zerrow_store.transfer.segment_files import FileClient
from zerrow_store.transfer.sender import Sender

SECURITY = Security(secret=b"what the machines of a test know")

C = TypeVar("C", bound=Client)


@dataclass(frozen=True)
class Object:
    """A published table, as its message has it."""

    object_id: bytes
    message: bytes
    allocations: Allocations


class Machine(Store):
    """A store that stands for a machine's, with its transfer agent."""

    def __init__(self, security: Security = SECURITY, *, budget: int = 1 << 30) -> None:
        super().__init__(f"test-{uuid.uuid4().hex[:12]}", budget=budget)
        self.security = security

    def serve(self) -> str:
        return local.serve(self.name, self.security, "127.0.0.1")

    def publish(self, table: pa.Table) -> Object:
        encoded = _native.encode(table)
        object_id = os.urandom(16)
        self.connected().publish(object_id, encoded)
        return Object(object_id, encoded.message, _native.message_allocations(encoded.message))

    def fetch(self, location: str, wanted: Object) -> pa.Table:
        """Return a table of another machine; it is held here as long as it is referred to."""
        return decoded(wanted, *self.land(location, wanted))

    def land(self, location: str, wanted: Object) -> tuple[list[tuple[bytes, int]], Hold]:
        return local.fetch(
            self.connected(), self.security, location, wanted.object_id, wanted.allocations
        )

    def agents(self) -> list[int]:
        """The pids of its transfer agents."""
        return processes("zerrow_store.transfer.agent", self.name)

    def agent(self) -> int:
        (pid,) = self.agents()
        return pid

    def is_empty(self) -> bool:
        """Whether nothing is stored, in part or whole."""
        stats = self.connected().stats()
        return stats.objects == 0 and stats.bytes_stored == 0

    def stop(self) -> None:
        super().stop()
        wait_until(lambda: not self.agents())


def decoded(wanted: Object, places: list[tuple[bytes, int]], hold: Hold) -> pa.Table:
    return _native.decode(wanted.message, hold, places)


def open_client(machine: Machine, cls: Callable[[str], C]) -> C:
    """Connect this process as an agent is."""
    machine.connected()
    client = cls(machine.name)
    machine._clients.append(client)
    return client


def receiver_of(machine: Machine) -> Receiver:
    """A receiver in this process, which lands objects in a machine's store."""
    client = open_client(machine, FileClient)
    return Receiver(client, SECURITY, Neighbours(client, SECURITY, Followers(client)))


class Node(Machine):
    """A machine, and its agent's parts."""

    def begin(self) -> "Node":
        client = open_client(self, FileClient)
        followers = Followers(client)
        self.neighbours = Neighbours(client, SECURITY, followers)
        client.listen(self.neighbours)
        self.location = Sender(client, SECURITY, "127.0.0.1", followers).location
        self.receiver = Receiver(client, SECURITY, self.neighbours)
        return self

    def leave(self) -> None:
        """End the agent's parts, in the middle of anything."""
        for client in self._clients:
            client.close()
        self._clients.clear()

    def producer(self):
        worker = self.worker()
        worker.do(PUBLISH)
        return worker

    def owner(self, owner_id: bytes):
        worker = self.worker()
        worker.do(OWNER.format(id=owner_id, name=self.name))
        return worker

    def count(self) -> int:
        return len(self.connected().list())

    def has_proxies(self) -> bool:
        """Whether it knows of objects on other machines."""
        client = self.connected()
        return client._connection.request(Watch([b"object"])) == []


def know(far: Node, *nodes: Node, **others: str) -> None:
    known = {name.encode(): location for name, location in others.items()}
    far.neighbours.update(known | {node.name.encode(): node.location for node in nodes})


class Fetching:
    """A fetch in a thread of its own."""

    def __init__(self, machine: Machine, location, wanted) -> None:
        self.wanted = wanted
        self._thread = threading.Thread(target=self._run, args=(machine, location, wanted))
        self._thread.start()

    def _run(self, machine, location, wanted) -> None:
        try:
            self._result = machine.fetch(location, wanted)
        except Exception as error:
            self._result = error

    def result(self):
        self._thread.join()
        return self._result

    def is_running(self) -> bool:
        return self._thread.is_alive()
