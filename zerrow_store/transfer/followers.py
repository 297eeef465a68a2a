"""The machines that have objects whose owners are processes of this one, or copies of its objects.

For each object of another machine this machine's store has a proxy, which belongs to the owner's
process as the object would: the owner deletes it, and it goes at the latest when that process ends.
Then the machines that have the object, or a copy, are told. What one of them was not told, because
the connection was lost, or this agent or the store had ended meanwhile, it learns when it follows
again: it says what it has, and is told which of that is gone. So nothing needs to be remembered
here.
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
"""How often an end that has nothing to say says so."""

MOST_IDS = 10_000
"""In one message."""


class _Follower:
    """A machine that is connected, and what it is to be told.

    _asked: what it has asked for, and whether the owner has let go of that meanwhile.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._asked: dict[bytes, bool] = {}
        self._answers: list[m.Owned] = []
        self._let_go: list[bytes] = []
        self._ended = False

    def asked(self, object_id: bytes) -> None:
        """Note that it asks whose an object is: until the answer it is told nothing of that."""
        with self._changed:
            self._asked[object_id] = False

    def answer(self, object_id: bytes, *, mine: bool) -> None:
        """Answer whose an object is."""
        with self._changed:
            self._answers.append(m.Owned(object_id, mine))
            if self._asked.pop(object_id):
                self._let_go.append(object_id)
            self._changed.notify()

    def let_go(self, object_id: bytes) -> None:
        """Tell it of an object that was let go of."""
        with self._changed:
            if object_id in self._asked:
                self._asked[object_id] = True
                return
            self._let_go.append(object_id)
            self._changed.notify()

    def end(self) -> None:
        """Tell it nothing more."""
        with self._changed:
            self._ended = True
            self._changed.notify()

    def messages(self) -> Iterator[m.Owned | m.LetGo]:
        """Yield what is to be said, until the end: answers first, as what was let go of may have
        just been answered for.
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
        except StoreUnavailableError as error:  # it asks again, when it has connected again
            logger.warning("a machine that asks for owners is hung up on: %s", error)
        finally:
            with self._lock:
                for object_id in [i for i, each in self._followed.items() if follower in each]:
                    self._forget(object_id, follower)
            follower.end()
            writer.join()

    def removed(self, object_id: bytes) -> None:
        """Note that this machine's store has an object, or its proxy, no more."""
        with self._lock:
            followers = self._followed.pop(object_id, set())
        for follower in followers:
            follower.let_go(object_id)

    def check(self, watch: Callable[[list[bytes]], list[bytes]]) -> None:
        """Find out what was removed while the store could not say so."""
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
        """Take back what `_enter` has done; called with the lock."""
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
        except ObjectExistsError:  # of a time before: the other store was started again over it
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
