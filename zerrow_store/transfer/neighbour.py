"""A neighbour: another machine, which is asked for the owners of objects."""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator

from zerrow_store import threads
from zerrow_store.errors import ProtocolError, StoreUnavailableError
from zerrow_store.protocol.messages import Carrier
from zerrow_store.transfer import messages as m
from zerrow_store.transfer.channel import Channel, connect
from zerrow_store.transfer.followers import ALIVE_SECONDS, MOST_IDS
from zerrow_store.transfer.security import Security
from zerrow_store.transfer.segment_files import FileClient

logger = logging.getLogger("zerrow_store.transfer")

_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0
_UNUSED_SECONDS = 60.0


class Neighbour:
    """Another machine.

    location: where its agent serves; empty if that is not known. answered: called with its answer
    to a question.

    _objects: the objects here, or about to be here, whose owners are there. _unsaid: those of them
    that it has not been told of. _questions: the questions to be sent; _waiting: those that were
    sent, and are not answered.

    It has many methods because two threads talk to the machine, and other threads add to that.
    """

    def __init__(
        self,
        node: bytes,
        location: str,
        security: Security,
        client: FileClient,
        answered: Callable[[bytes, bytes, bool], None],
    ) -> None:
        self._node = node
        self.location = location
        self._security = security
        self._client = client
        self._answered = answered
        self._changed = threading.Condition()
        self._objects: set[bytes] = set()
        self._unsaid: list[bytes] = []
        self._questions: dict[bytes, Carrier] = {}
        self._waiting: set[bytes] = set()
        self._channel: Channel | None = None
        self._runs = self._left = False
        self._away_until = 0.0

    def ask(self, object_id: bytes, carrier: Carrier) -> bool:
        """Ask for an object's owner, without waiting; return False if that is impossible now."""
        with self._changed:
            if self._left or not self.can_be_asked():
                return False
            self._questions[object_id] = carrier
            self._run()
        return True

    def can_be_asked(self) -> bool:
        """Whether a connection to the machine may succeed, as far as is known."""
        return bool(self.location) and time.monotonic() >= self._away_until

    def follow(self, object_ids: Iterable[bytes]) -> None:
        """Take note of objects whose owners are there."""
        with self._changed:
            added = list(object_ids)
            self._objects.update(added)
            self._unsaid += added
            self._run()

    def move(self, location: str) -> None:
        """Take note of the agent's new location."""
        with self._changed:
            if location != self.location:
                self.location, self._away_until = location, 0.0
                self._cut()

    def leave(self) -> None:
        """Delete the machine's objects: it has left the cluster."""
        with self._changed:
            self._left = True
            if self._objects:
                self._run()
            self._cut()

    def _run(self) -> None:
        if not self._runs:
            self._runs = True
            threads.start(self._follow, name="zerrow-neighbour")
        self._changed.notify_all()

    def _cut(self) -> None:
        if self._channel is not None:
            self._channel.cut()
        self._changed.notify_all()

    # --- its thread ---

    def _follow(self) -> None:
        pause = _FIRST_PAUSE
        while self._is_wanted():
            began = time.monotonic()
            try:
                with connect(self.location, self._security) as channel:
                    self._talk(channel)
            except (OSError, ProtocolError) as error:
                logger.warning("the machine at %s cannot be asked: %s", self.location, error)
                if time.monotonic() - began > _LONGEST_PAUSE:
                    pause = _FIRST_PAUSE
                self._fail_questions(pause)
                with self._changed:
                    self._changed.wait_for(lambda: time.monotonic() >= self._away_until, pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
        self._fail_questions(0.0)

    def _is_wanted(self) -> bool:
        with self._changed:
            if not self._left and (self._objects or self._questions):
                return True
            self._runs = False
            objects, self._objects = self._objects, set()
        if objects:  # it has left
            logger.warning("%d objects belong to a machine that has left", len(objects))
            self._delete(list(objects))
        return False

    def _talk(self, channel: Channel) -> None:
        with self._changed:
            self._channel, self._away_until = channel, 0.0
            self._unsaid = list(self._objects)
        writer = threading.Thread(
            target=self._write, args=[channel], name="zerrow-neighbour-asks", daemon=True
        )
        writer.start()
        try:
            self._read(channel)
        finally:
            with self._changed:
                self._channel = None
                self._changed.notify_all()
            writer.join()

    def _read(self, channel: Channel) -> None:
        used = time.monotonic()
        while not self._left:
            said = channel.receive(m.OWNED)
            if isinstance(said, m.Owned):
                self._note_answer(said)
            elif said.object_ids:
                with self._changed:
                    let_go = self._objects.intersection(said.object_ids)  # not another machine's
                    self._objects -= let_go
                self._delete(list(let_go))
            with self._changed:
                if self._objects or self._questions or self._waiting:
                    used = time.monotonic()
                elif time.monotonic() - used > _UNUSED_SECONDS:
                    return

    def _note_answer(self, said: m.Owned) -> None:
        with self._changed:
            if said.object_id not in self._waiting:
                raise ProtocolError("it answers what it was not asked")
            self._waiting.discard(said.object_id)
            if said.mine:
                self._objects.add(said.object_id)
        self._answered(self._node, said.object_id, said.mine)

    def _write(self, channel: Channel) -> None:
        try:
            channel.send(m.Follow([]))  # which begins it
            for message in self._asks(channel):
                channel.send(message)
        except OSError as error:
            logger.info("lost the machine at %s: %s", self.location, error)
            channel.cut()

    def _asks(self, channel: Channel) -> Iterator[m.Whose | m.Follow]:
        while True:
            with self._changed:
                self._changed.wait_for(
                    lambda: self._questions or self._unsaid or self._channel is not channel,
                    ALIVE_SECONDS,
                )
                if self._channel is not channel:
                    return
                questions, self._questions = self._questions, {}
                self._waiting.update(questions)
                unsaid, self._unsaid = self._unsaid[:MOST_IDS], self._unsaid[MOST_IDS:]
            for object_id, carrier in questions.items():
                yield m.Whose(object_id, carrier)
            if unsaid or not questions:
                yield m.Follow(unsaid)

    def _fail_questions(self, pause: float) -> None:
        """Fail all questions, and take new ones only after a pause."""
        with self._changed:
            self._away_until = time.monotonic() + pause
            failed = [*self._questions, *self._waiting]
            self._questions, self._waiting = {}, set()
        for object_id in failed:
            self._answered(self._node, object_id, False)

    def _delete(self, object_ids: list[bytes]) -> None:
        try:
            self._client.delete(object_ids, missing_ok=True)
        except StoreUnavailableError as error:  # the client deletes them once it is connected
            logger.warning("objects are deleted later: %s", error)
