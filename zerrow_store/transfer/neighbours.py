"""Neighbours: the other machines, which may have the owners of objects that are here.

They are asked whether they have the owner of an object, and say when an owner has deleted an object
of which this machine has the original or a copy. There is a connection to a machine only while a
question is open there, or while owners there have objects here. In a large cluster, most machines
are connected to the drivers' machines only. The store's object table says which object belongs to
which machine, so a restarted agent follows the same objects again. Objects that belong to a machine
that has left the cluster are deleted.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field

from zerrow_store.forks import Lock
from zerrow_store.lru import LruCache
from zerrow_store.protocol.messages import Carrier
from zerrow_store.transfer.followers import Followers
from zerrow_store.transfer.neighbour import Neighbour
from zerrow_store.transfer.security import Security
from zerrow_store.transfer.segment_files import FileClient

logger = logging.getLogger("zerrow_store.transfer")

_MOST_GROUPS = 4096


@dataclass
class _Question:
    """The search for an object's owner.

    waiting: the machines that have not answered. rounds: the machines to be asked after those.
    """

    carrier: Carrier
    rounds: list[list[bytes]]
    waiting: set[bytes] = field(default_factory=set)


class Neighbours:
    """See the module, and `segment_files.Neighbourhood`. Safe to use from any thread.

    followers: the machines that have objects whose owners are here.
    """

    def __init__(self, client: FileClient, security: Security, followers: Followers) -> None:
        self._client = client
        self._security = security
        self._followers = followers
        self._lock = Lock()
        self._neighbours: dict[bytes, Neighbour] = {}
        self._asked: dict[bytes, _Question] = {}
        self._last_owners: LruCache[bytes, bytes] = LruCache(_MOST_GROUPS)

    def update(self, locations: dict[bytes, str]) -> None:
        """Take note of all other machines of the cluster, with the locations of their agents.

        An unknown location is empty. A machine that is missing has left the cluster, and its owners
        with it.
        """
        with self._lock:
            left = [self._neighbours.pop(node) for node in self._neighbours.keys() - locations]
            for node, location in locations.items():
                if node in self._neighbours:
                    self._neighbours[node].move(location)
                else:
                    self._neighbours[node] = Neighbour(
                        node, location, self._security, self._client, self._answered
                    )
        for neighbour in left:
            neighbour.leave()

    def take_up(self) -> None:
        """Follow all objects of the store whose owners are on other machines.

        Raises StoreUnavailableError.
        """
        for node, object_ids in self._client.owned_elsewhere().items():
            self.follow(node, object_ids)

    def follow(self, node: bytes, object_ids: list[bytes]) -> None:
        """Have another machine say when objects end that are here, and whose owners are there."""
        neighbour = self._neighbours.get(node)
        if neighbour is None:
            logger.warning("%d objects belong to a machine that has left", len(object_ids))
            self._client.delete(object_ids, missing_ok=True)
        else:
            neighbour.follow(object_ids)

    def known(self, node: bytes) -> bytes:
        """Return `node` if it is another machine of the cluster, else the empty name."""
        return node if node in self._neighbours else b""

    def at(self, location: str) -> bytes:
        """Return the machine whose agent serves at a location; empty if it is not known."""
        with self._lock:
            found = (n for n, each in self._neighbours.items() if each.location == location)
            return next(found, b"")

    def locations(self) -> list[str]:
        """Return the locations of the agents that can be asked now."""
        with self._lock:
            return [each.location for each in self._neighbours.values() if each.can_be_asked()]

    def is_any_away(self) -> bool:
        """Whether there is a machine that may have objects, and cannot be asked now."""
        with self._lock:
            return any(
                each.location and not each.can_be_asked() for each in self._neighbours.values()
            )

    # --- what the store says ---

    def whose(self, object_id: bytes, carrier: Carrier) -> None:
        with self._lock:
            first = carrier.node or self._last_owners.get(carrier.group) or b""
            others = [] if carrier.node else [each for each in self._neighbours if each != first]
            self._asked[object_id] = _Question(carrier, [[first], others])
            self._proceed(object_id)

    def removed(self, object_id: bytes) -> None:
        self._followers.removed(object_id)

    def connected(self, missing: Callable[[list[bytes]], list[bytes]]) -> None:
        self._followers.check(missing)

    # --- what other machines say ---

    def _answered(self, node: bytes, object_id: bytes, mine: bool) -> None:
        with self._lock:
            question = self._asked.get(object_id)
            if question is None or node not in question.waiting:
                return
            if mine:
                del self._asked[object_id]
                self._client.claim(object_id, node)
                self._last_owners.put(question.carrier.group, node)
            else:
                question.waiting.discard(node)
                self._proceed(object_id)

    def _proceed(self, object_id: bytes) -> None:
        question = self._asked[object_id]
        while question.rounds and not question.waiting:
            for node in question.rounds.pop(0):
                neighbour = self._neighbours.get(node)
                if neighbour is not None and neighbour.ask(object_id, question.carrier):
                    question.waiting.add(node)
        if not question.waiting:
            del self._asked[object_id]
            self._client.claim(object_id, None)
