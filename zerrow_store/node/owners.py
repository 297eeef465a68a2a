"""Objects that belong to another process than the one that publishes them.

What a task returns belongs to whoever called the task: the reference that carries it is counted
there, and only there is it known when nobody needs it any more. So the owner deletes the object,
and the object goes at the latest when the owner's process ends.

Who publishes may know the owner, as of the items of a stream: the object is entered, and its owner
told. Else the processes that may be owners are asked, those first that claimed what this connection
published last. An object that nobody claims is refused: its lifetime would be nobody's business. A
store that was started again waits for its processes to come back before it refuses anything.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from zerrow_store.errors import ObjectExistsError, ProtocolError
from zerrow_store.node import messages as m
from zerrow_store.node.admission import Admission, Put
from zerrow_store.node.connection import DEFERRED, Call, Connection
from zerrow_store.node.lives import Lives

_PATIENCE_SECONDS = 1.0
"""For processes that do not answer: what they would have claimed is refused."""


@dataclass
class _Question:
    """Whose object a put's is. waiting: who has not answered yet; others: who is asked then."""

    put: Put
    until: float
    waiting: set[Connection] = field(default_factory=set)
    others: set[Connection] = field(default_factory=set)


class Owners:
    """See the module. tell: sends an event to a connection; retry: enters a put that was deferred,
    and answers it.
    """

    def __init__(
        self,
        admission: Admission,
        lives: Lives,
        *,
        tell: Callable[[Connection, str, Any], None],
        retry: Callable[[Put], None],
    ) -> None:
        self._admission = admission
        self._lives = lives
        self._tell = tell
        self._retry = retry
        self._owners: dict[bytes, Connection] = {}
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

    def put(self, call: Call, request: m.Put) -> Any:
        """Enter an object, as soon as its owner is known. Raises NoOwnerError."""
        segment, carrier = call.connection.segment, request.carrier
        if request.owned and segment is None:
            raise ProtocolError("it owns what it publishes, and has not attached a segment")
        # First of all: a process that asks again after a crash of the store keeps what has counted.
        if request.object_id in self._asked or request.object_id in self._lives.books.objects:
            raise ObjectExistsError(f"object {request.object_id.hex()} exists already")
        put = self._admission.received(call, request)
        if carrier is None:
            put.owner = segment if request.owned else None
            return self._admission.enter(put)
        if owner := self._owners.get(carrier.owner_id):
            put.owner = owner.segment
            return self._admission.enter(put)
        self._asked[request.object_id] = _Question(put, time.monotonic() + _PATIENCE_SECONDS)
        self._ask_around(request.object_id)
        return DEFERRED

    def claimed(self, connection: Connection, object_id: bytes, *, mine: bool) -> None:
        """Note a process's answer to the question whose an object is."""
        question = self._asked.get(object_id)
        if question is None or connection not in question.waiting:
            return
        if mine:
            question.put.call.connection.last_owner = connection.owner_id
            self._enter(object_id, connection)
        else:
            self._denied(object_id, connection)

    def deleted(self, object_ids: Iterable[bytes]) -> None:
        """Note that objects were deleted, some of which may still have to be entered: an owner may
        say so before it is heard that it is the owner.
        """
        for object_id in self._asked.keys() & set(object_ids):
            self._asked[object_id].put.withdrawn = True
        self._admission.withdraw(object_ids)

    def dropped(self, connection: Connection) -> None:
        """Note that a connection has ended: it neither publishes nor claims."""
        if self._owners.get(connection.owner_id) is connection:
            del self._owners[connection.owner_id]
        for object_id, question in list(self._asked.items()):
            if question.put.call.connection is connection:
                self._admission.settle(self._asked.pop(object_id).put.adopted)
            else:
                self._denied(object_id, connection)

    def tick(self) -> None:
        """Refuse what nobody has claimed in time."""
        now = time.monotonic()
        for object_id in [i for i, question in self._asked.items() if question.until < now]:
            if not self._somebody_may_return():
                self._refuse(object_id)

    def _ask_around(self, object_id: bytes) -> None:
        question = self._asked[object_id]
        if not _carrier(question.put).owner_id:
            everybody = set(self._owners.values())
            last = self._owners.get(question.put.call.connection.last_owner)
            first = everybody if last is None else {last}
            question.others = everybody - first
            self._ask(object_id, first)
        self._conclude(object_id)

    def _ask(self, object_id: bytes, processes: set[Connection]) -> None:
        question = self._asked[object_id]
        question.waiting |= processes
        for connection in processes:
            self._tell(connection, "whose", [object_id, _carrier(question.put).reference])

    def _denied(self, object_id: bytes, connection: Connection) -> None:
        question = self._asked[object_id]
        question.waiting.discard(connection)
        question.others.discard(connection)
        if question.others and not question.waiting:
            others, question.others = question.others, set()
            self._ask(object_id, others)
        self._conclude(object_id)

    def _conclude(self, object_id: bytes) -> None:
        if not self._asked[object_id].waiting and not self._somebody_may_return():
            self._refuse(object_id)

    def _somebody_may_return(self) -> bool:
        """Whether the store has been started again, and is not connected to all processes yet."""
        away = self._lives.living - self._lives.owners.keys()
        return bool(away) and not self._lives.all_returned()

    def _enter(self, object_id: bytes, owner: Connection) -> None:
        put = self._asked.pop(object_id).put
        put.owner = owner.segment
        self._retry(put)

    def _refuse(self, object_id: bytes) -> None:
        put = self._asked.pop(object_id).put
        put.withdrawn = True
        self._retry(put)


def _carrier(put: Put) -> m.Carrier:
    assert put.request.carrier is not None
    return put.request.carrier
