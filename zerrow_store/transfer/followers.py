"""Followers: machines that are told when objects end, because the owners are on this machine.

A follower has objects whose owners are processes of this machine, or copies of this machine's
objects. For each such object of another machine, this machine's store has a proxy. The proxy
belongs to the owner's process as the object itself would: the owner deletes it, or it goes when the
process ends. Then the followers that have the object, or a copy of it, are told.

A follower may miss this, because the connection was lost, or because the agent or the store was
down. It learns it when it follows again: it says what it has, and is told which of that is gone. So
nothing needs to be remembered here.
"""

import logging
import threading
from collections.abc import Callable, Iterator

from zerrow_store.errors import NoOwnerError, ObjectExistsError, StoreUnavailableError
from zerrow_store.forks import Lock
from zerrow_store.protocol.messages import Carrier
from zerrow_store.transfer import messages as m
from zerrow_store.transfer.channel import SILENCE_SECONDS, Channel
from zerrow_store.transfer.segment_files import FileClient

logger = logging.getLogger("zerrow_store.transfer")

ALIVE_SECONDS = SILENCE_SECONDS / 3
"""How often an end sends an empty message when it has nothing to say."""

MOST_IDS = 10_000
"""In one message."""


class _Follower:
    """A connected machine, and what it is to be told.

    _asked: the objects whose owner it has asked for, each with whether the owner has already
    deleted it.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._asked: dict[bytes, bool] = {}
        self._answers: list[m.Owned] = []
        self._let_go: list[bytes] = []
        self._ended = False

    def asked(self, object_id: bytes) -> None:
        """Note that it asks for an object's owner. Before the answer it is not told of the end."""
        with self._changed:
            self._asked[object_id] = False

    def answer(self, object_id: bytes, *, mine: bool) -> None:
        """Answer whether the object's owner is on this machine."""
        with self._changed:
            self._answers.append(m.Owned(object_id, mine))
            if self._asked.pop(object_id):
                self._let_go.append(object_id)
            self._changed.notify()

    def let_go(self, object_id: bytes) -> None:
        """Tell it that an object's owner has deleted the object."""
        with self._changed:
            if object_id in self._asked:
                self._asked[object_id] = True
                return
            self._let_go.append(object_id)
            self._changed.notify()

    def end(self) -> None:
        """Stop telling it anything."""
        with self._changed:
            self._ended = True
            self._changed.notify()

    def messages(self) -> Iterator[m.Owned | m.LetGo]:
        """Yield what is to be sent, until the end. Answers come first: an object that has ended may
        be one whose answer is still to be sent.
        """
        while True:
            with self._changed:
                self._changed.wait_for(self._has_news, ALIVE_SECONDS)
                if self._ended:
                    return
                answers, self._answers = self._answers, []
                let_go, self._let_go = self._let_go[:MOST_IDS], self._let_go[MOST_IDS:]
            yield from answers
            if let_go or not answers:
                yield m.LetGo(let_go)

    def _has_news(self) -> bool:
        return bool(self._answers or self._let_go or self._ended)


class Followers:
    """See the module. Safe to use from any thread."""

    def __init__(self, client: FileClient) -> None:
        self._client = client
        self._lock = Lock()
        self._followed: dict[bytes, set[_Follower]] = {}

    def serve(self, channel: Channel, first: m.Follow) -> None:
        """Serve a machine until it hangs up. Raises OSError, ProtocolError."""
        follower = _Follower()
        writer = threading.Thread(
            target=self._write, args=[channel, follower], name="zerrow-followers", daemon=True
        )
        writer.start()
        try:
            asked: m.Follow | m.Whose = first
            while True:
                if isinstance(asked, m.Follow):
                    self._follow(asked.object_ids, follower)
                else:
                    self._ask(asked.object_id, asked.carrier, follower)
                asked = channel.receive(m.FOLLOWED)
        except StoreUnavailableError as error:  # the follower reconnects and asks again
            logger.warning("a machine that asks for owners is hung up on: %s", error)
        finally:
            with self._lock:
                for object_id in [i for i, each in self._followed.items() if follower in each]:
                    self._forget(object_id, follower)
            follower.end()
            writer.join()

    def removed(self, object_id: bytes) -> None:
        """Note that an object, or its proxy, is no longer in this machine's store."""
        with self._lock:
            followers = self._followed.pop(object_id, set())
        for follower in followers:
            follower.let_go(object_id)

    def check(self, watch: Callable[[list[bytes]], list[bytes]]) -> None:
        """Find out what was removed while the store was not connected."""
        with self._lock:
            followed = list(self._followed)
        for start in range(0, len(followed), MOST_IDS):
            for object_id in watch(followed[start : start + MOST_IDS]):
                self.removed(object_id)

    def _follow(self, object_ids: list[bytes], follower: _Follower) -> None:
        if object_ids:
            self._enter(object_ids, follower)
            for object_id in self._client.watch(object_ids):
                self.removed(object_id)

    def _enter(self, object_ids: list[bytes], follower: _Follower) -> None:
        with self._lock:
            for object_id in object_ids:
                self._followed.setdefault(object_id, set()).add(follower)

    def _forget(self, object_id: bytes, follower: _Follower) -> None:
        """Undo `_enter`. The caller has the lock."""
        followers = self._followed.get(object_id, set())
        followers.discard(follower)
        if not followers:
            self._followed.pop(object_id, None)

    def _ask(self, object_id: bytes, carrier: Carrier, follower: _Follower) -> None:
        follower.asked(object_id)
        self._enter([object_id], follower)
        try:
            self._client.put_proxy(object_id, carrier)
        except NoOwnerError:
            mine = False
        except ObjectExistsError:  # asked before: the follower's store was restarted meanwhile
            mine = not self._client.watch([object_id])
        else:
            mine = True
        if not mine:
            with self._lock:
                self._forget(object_id, follower)
        follower.answer(object_id, mine=mine)

    def _write(self, channel: Channel, follower: _Follower) -> None:
        try:
            for message in follower.messages():
                channel.send(message)
        except OSError as error:
            logger.info("lost a machine that asks for owners: %s", error)
            channel.cut()
