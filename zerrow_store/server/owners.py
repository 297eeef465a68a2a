"""Objects that belong to another process than the one that publishes them.

A task's result belongs to the caller of the task: the reference that carries it is counted there,
and only there is it known when nobody needs it any more. So the owner deletes the object, and the
object goes at the latest when the owner's process ends.

If the producer knows the owner, as for items of a stream, the object is entered and the owner is
told. Otherwise the processes that may be owners are asked in rounds: first the one that claimed the
last object of this producer, then the others of this machine, then the transfer agent, which asks
other machines. If the agent claims an object, it stays until the agent deletes it. An object that
nobody claims is refused. A store that was started again waits for its processes to come back before
it refuses an object.

The agent, in turn, publishes proxies: objects without bytes that stand for objects of other
machines that belong to processes of this one.
"""

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from zerrow_store.errors import ObjectExistsError, ProtocolError
from zerrow_store.protocol import messages as m
from zerrow_store.protocol import notices
from zerrow_store.server.admission import Admission
from zerrow_store.server.connection import DEFERRED, Call, Connection
from zerrow_store.server.lifetimes import Lifetimes
from zerrow_store.server.put_queue import Put, PutQueue
from zerrow_store.server.state import State

_PATIENCE_SECONDS = 1.0
_AGENT_PATIENCE_SECONDS = 10.0
"""How long to wait for answers; then the object is refused."""


@dataclass
class _Question:
    """The question whose object a put enters.

    waiting: connections that have not answered yet. rounds: those that are asked afterwards.
    """

    put: Put
    rounds: list[set[Connection]]
    until: float = 0.0
    waiting: set[Connection] = field(default_factory=set)


class Owners:
    """See the module."""

    def __init__(
        self,
        state: State,
        lifetimes: Lifetimes,
        put_queue: PutQueue,
        admission: Admission,
    ) -> None:
        self._state = state
        self._effects = state.effects
        self._lifetimes = lifetimes
        self._put_queue = put_queue
        self._admission = admission
        self._owners: dict[bytes, Connection] = {}
        self._agent: Connection | None = None
        self._asked: dict[bytes, _Question] = {}

    def came(self, connection: Connection, owner_id: bytes) -> None:
        """Note that a process, whose segment is attached, may own what others publish."""
        connection.owner_id = owner_id
        self._owners[owner_id] = connection
        for object_id, question in list(self._asked.items()):
            carrier = _carrier(question.put)
            if carrier.owner_id == owner_id:
                self._enter(object_id, connection)
            elif not carrier.owner_id:
                self._ask(object_id, {connection})

    def agent_came(self, connection: Connection) -> None:
        """Note the transfer agent's connection."""
        self._agent = connection

    def put(self, call: Call, request: m.Put) -> Any:
        """Enter an object, as soon as its owner is known. Raises NoOwnerError."""
        segment, carrier = call.connection.segment, request.carrier
        if request.owned and segment is None:
            raise ProtocolError("an owned object needs an attached segment")
        # First of all: a process that asks again after a crash of the store keeps what has counted.
        self._admission.check_new(request.object_id)
        if request.object_id in self._asked:
            raise ObjectExistsError(f"object {request.object_id.hex()} is being published")
        put = self._put_queue.received(call, request)
        if carrier is None:
            put.owner = segment if request.owned else None
            return self._put_queue.enter(put)
        if owner := self._owners.get(carrier.owner_id):
            put.owner = owner.segment
            return self._put_queue.enter(put)
        self._asked[request.object_id] = _Question(put, self._rounds(put))
        self._proceed(request.object_id)
        return DEFERRED

    def claimed(self, connection: Connection, claim: m.Claim) -> None:
        """Note a process's answer to the question whose an object is."""
        if claim.mine and bool(claim.node) != (connection.role == "agent"):
            raise ProtocolError(
                "only the transfer agent may claim for another machine, which it has to name"
            )
        question = self._asked.get(claim.object_id)
        if question is None or connection not in question.waiting:
            return
        if not claim.mine:
            self._denied(claim.object_id, connection)
            return
        question.put.call.connection.last_claimer = connection
        question.put.node = claim.node or None
        self._enter(claim.object_id, connection)

    def deleted(self, object_ids: Iterable[bytes]) -> None:
        """Note that objects were deleted, some of which may not be entered yet: an owner may delete
        an object before the store has got its claim.
        """
        for object_id in self._asked.keys() & set(object_ids):
            self._asked[object_id].put.withdrawn = True
        self._put_queue.withdraw(object_ids)

    def dropped(self, connection: Connection) -> None:
        """Note that a connection has ended: it neither publishes nor claims."""
        if self._owners.get(connection.owner_id) is connection:
            del self._owners[connection.owner_id]
        if self._agent is connection:
            self._agent = None
            self._state.watched.clear()
        for object_id, question in list(self._asked.items()):
            if question.put.call.connection is connection:
                self._put_queue.forget(self._asked.pop(object_id).put)
            else:
                self._denied(object_id, connection)

    def tick(self) -> None:
        """Give up the connections that have not answered in time."""
        now = time.monotonic()
        for object_id in [i for i, question in self._asked.items() if question.until < now]:
            self._asked[object_id].waiting.clear()
            self._proceed(object_id)

    def _rounds(self, put: Put) -> list[set[Connection]]:
        """Return the connections that are to be asked, one set after the other."""
        asker, here = put.call.connection, set(self._owners.values())
        others = set() if self._agent is None or asker is self._agent else {self._agent}
        if _carrier(put).owner_id:  # known, and not here
            return [others]
        last = {asker.last_claimer} & (here | others) if asker.last_claimer else set()
        return [last, here - last, others - last]

    def _proceed(self, object_id: bytes) -> None:
        question = self._asked[object_id]
        while question.rounds and not question.waiting:
            self._ask(object_id, question.rounds.pop(0))
        if not question.waiting and not self._somebody_may_return():
            self._refuse(object_id)

    def _ask(self, object_id: bytes, processes: set[Connection]) -> None:
        question = self._asked[object_id]
        question.waiting |= processes
        asks_agent = self._agent in processes
        patience = _AGENT_PATIENCE_SECONDS if asks_agent else _PATIENCE_SECONDS
        question.until = time.monotonic() + patience
        carrier = _carrier(question.put)
        for connection in processes:
            if connection is self._agent:
                self._effects.notify(connection, notices.WhoseElsewhere(object_id, carrier))
            else:
                self._effects.notify(connection, notices.Whose(object_id, carrier.reference))

    def _denied(self, object_id: bytes, connection: Connection) -> None:
        question = self._asked[object_id]
        for processes in (question.waiting, *question.rounds):
            processes.discard(connection)
        self._proceed(object_id)

    def _somebody_may_return(self) -> bool:
        """Whether the store has been started again, and is not connected to all processes yet."""
        away = self._state.living - self._state.attached.keys()
        return bool(away) and self._lifetimes.some_return_soon()

    def _enter(self, object_id: bytes, owner: Connection) -> None:
        put = self._asked.pop(object_id).put
        put.owner = None if put.node else owner.segment
        self._put_queue.retry(put)

    def _refuse(self, object_id: bytes) -> None:
        put = self._asked.pop(object_id).put
        put.withdrawn = True
        self._put_queue.retry(put)


def _carrier(put: Put) -> m.Carrier:
    assert put.request.carrier is not None
    return put.request.carrier
