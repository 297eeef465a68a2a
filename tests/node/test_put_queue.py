"""Admission over random histories: a real object table, spiller, evictor and queue; no sockets."""

import gc
import os
import select
import selectors
import struct
import tempfile
from collections import Counter
from typing import Any
from unittest import mock

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from zerrow_store.errors import StoreFullError
from zerrow_store.policy import load_policy
from zerrow_store.protocol import events
from zerrow_store.protocol import messages as m
from zerrow_store.protocol.fields import Counters
from zerrow_store.protocol.notices import Freed
from zerrow_store.server import effects
from zerrow_store.server.connection import DEFERRED, Call
from zerrow_store.server.core import Core
from zerrow_store.server.put_queue import Put

PAGE = 4096
BUDGET = 16 * PAGE
SIZE = 256 * PAGE
PROCESSES = 4
# What there is to choose from hangs on how quick the disk was; what is drawn must not.
WHICH = st.integers(0, 99)


class Peer:
    """A process as admission sees its connection. `asked` are its puts without an answer yet."""

    def __init__(self, segment: bytes) -> None:
        self.segment = segment
        self.holds: Counter[bytes] = Counter()
        self.identity = b""
        self.pid = os.getpid()
        self.asked: dict[int, int] = {}
        self.free = set(range(SIZE // PAGE))


class Admissions(RuleBasedStateMachine):
    """Processes put, hold, release and delete; each put is answered in the end, and in order.

    It has many methods because each rule of a state machine is one.
    """

    policy = "adaptive"

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.TemporaryDirectory()
        self.selector = selectors.DefaultSelector()
        with mock.patch.dict(os.environ, ZERROW_SPILL_DIR=self.directory.name):
            self.core = Core(BUDGET, load_policy(self.policy), self.selector)
        self.state, self.lifetimes = self.core.state, self.core.lifetimes
        self.is_done = select.poll()  # descriptors have any number here
        self.is_done.register(self.core.spiller.done, select.POLLIN)
        self.put_queue = self.core.put_queue
        self.put_queue.retry = self.answer_later  # type: ignore[method-assign]
        self.serial = 0
        self.peers = [self.connect() for _ in range(PROCESSES)]

    def connect(self) -> Peer:
        segment, fd = os.urandom(16), os.memfd_create("admission")
        os.ftruncate(fd, SIZE)
        self.state.add_segment(events.SegmentAdded(segment, SIZE, os.getpid(), 0), fd)
        self.state.living.add(segment)
        peer = Peer(segment)
        self.state.attached[segment].add(peer)  # type: ignore[arg-type]
        return peer

    def carry_out(self) -> None:
        """Do with what was done what the server does, without sockets."""
        for effect in self.core.effects.take():
            if isinstance(effect, effects.Notify):
                peer: Any = effect.connection
                assert isinstance(effect.notice, Freed)
                offsets = struct.iter_unpack("<Q", effect.notice.offsets)
                peer.free |= {offset // PAGE for (offset,) in offsets}
            elif isinstance(effect, effects.Close):
                os.close(effect.descriptor)
            else:
                assert not isinstance(effect, effects.Reply | effects.Refuse)

    # --- answers ---

    def answer_later(self, put: Put) -> None:
        """A put that waited is tried again; it must be the first of those that go first."""
        waiting = [(p, n) for p in self.peers for n in p.asked]
        first_class = [n for p, n in waiting if p.holds] or [n for _, n in waiting]
        assert put.call.request_id == min(first_class), "it overtakes another one"
        self.answer(put.call.connection, put.call.request_id, lambda: self.put_queue.enter(put))

    def answer(self, peer: Any, number: int, enter: Any) -> None:
        pages = peer.asked[number]
        room = BUDGET - self.state.table.bytes_stored + self.idle_bytes()
        refused: StoreFullError | None = None
        try:
            if enter() is DEFERRED:
                assert self.core.spiller.is_busy, "nothing will ever let it in"
                return
        except StoreFullError as error:
            refused = error
        if refused is not None:
            assert (refused.needed, refused.budget) == (pages * PAGE, BUDGET)
            assert refused.used == self.state.table.bytes_stored
            assert pages * PAGE > room or self.policy == "none", "it was refused without need"
        del peer.asked[number]

    def idle_bytes(self) -> int:
        table = self.state.table
        return sum(
            entry.nbytes - entry.bytes_spilled
            for object_id, entry in table.objects.items()
            if not self.state.holders[object_id]
        )

    # --- what processes do ---

    @rule(who=st.integers(0, PROCESSES - 1), pages=st.integers(1, 18))
    def put(self, who: int, pages: int) -> None:
        self.carry_out()
        peer = self.peers[who]
        if peer.asked or len(peer.free) < pages:
            return  # it waits for the answer
        self.serial += 1
        offsets = sorted(peer.free)[:pages]
        peer.free -= set(offsets)
        object_id = self.serial.to_bytes(16, "big")
        own = b"".join(
            (o * PAGE).to_bytes(8, "little") + PAGE.to_bytes(8, "little") for o in offsets
        )
        message = m.Put(object_id, own, [], None, False, False, Counters())
        call = Call(peer, "put", self.serial, [])  # type: ignore[arg-type]
        peer.asked[self.serial] = pages
        self.answer(
            peer, self.serial, lambda: self.put_queue.enter(self.put_queue.received(call, message))
        )

    def objects(self) -> list[bytes]:
        return sorted(o for o, entry in self.state.table.objects.items() if not entry.deleted)

    @rule(who=st.integers(0, PROCESSES - 1), which=WHICH)
    def hold(self, who: int, which: int) -> None:
        if (objects := self.objects()) and not self.peers[who].asked:
            self.lifetimes.take_hold(self.peers[who], objects[which % len(objects)])  # type: ignore[arg-type]

    @rule(which=WHICH)
    def release(self, which: int) -> None:
        held = [(peer, o) for peer in self.peers for o in sorted(peer.holds)]
        if held:
            peer, object_id = held[which % len(held)]
            peer.holds[object_id] -= 1
            peer.holds += Counter()
            self.lifetimes.release(object_id, 1)

    @rule(which=WHICH)
    def delete(self, which: int) -> None:
        if objects := self.objects():
            self.lifetimes.delete(objects[which % len(objects)])

    @rule(who=st.integers(0, PROCESSES - 1))
    def disconnect(self, who: int) -> None:
        peer = self.peers[who]
        peer.asked.clear()
        holds, peer.holds = peer.holds, Counter()
        for object_id, count in holds.items():
            self.lifetimes.release(object_id, count)
        self.put_queue.dropped(peer)  # type: ignore[arg-type]
        self.peers[who] = self.connect()

    # --- the course of time ---

    @rule()
    def conclude(self) -> None:
        if self.core.spiller.is_busy:
            assert self.is_done.poll(60_000)
            self.core.evictor.conclude()
            self.put_queue.let_in()

    @rule()
    def tick(self) -> None:
        self.core.evictor.tick(0)
        self.put_queue.tick()

    @invariant()
    def the_budget_is_kept(self) -> None:
        assert self.state.table.bytes_stored <= BUDGET

    @invariant()
    def whoever_waits_waits_for_the_disk(self) -> None:
        waits = any(peer.asked for peer in self.peers)
        assert not waits or self.core.spiller.is_busy, "a put waits for nothing"

    def teardown(self) -> None:
        try:
            # Nobody does anything any more: those that wait are answered all the same.
            for _ in range(100):
                if not self.core.spiller.is_busy:
                    break
                self.conclude()
            assert not any(peer.asked for peer in self.peers), "a put starves"
        finally:
            self.carry_out()
            # A failed example is tried over and over again.
            if self.core.spiller.is_busy:
                self.is_done.poll()
            for key in list(self.selector.get_map().values()):
                os.close(key.fd)
            self.selector.close()
            for fd in (*self.state.descriptors.values(), self.core.spiller.done):
                os.close(fd)
            os.close(self.core.spiller._finished)
            self.directory.cleanup()


def admissions(name: str) -> type:
    machine = type(f"Admissions_{name}", (Admissions,), {"policy": name})
    machine.TestCase.settings = settings(max_examples=25, stateful_step_count=40)
    return machine.TestCase


TestAdaptive = admissions("adaptive")
TestSwap = admissions("swap")
TestNone = admissions("none")


def test_who_asks_while_others_wait_comes_after_them_unless_it_holds_something() -> None:
    machine = Admissions()
    try:
        first, second, third, busy = machine.peers
        for _ in range(4):
            machine.put(0, 4)
        machine.lifetimes.take_hold(busy, (4).to_bytes(16, "big"))  # type: ignore[arg-type]
        for who in (0, 1, 2):
            machine.put(who, 4)
        assert [bool(peer.asked) for peer in machine.peers] == [True, True, True, False]
        machine.put(3, 8)
        assert busy.asked, "it waits for the disk like them"
        order = []
        answer = machine.answer

        def noted(peer: Any, number: int, enter: Any) -> None:
            answer(peer, number, enter)
            order.extend([] if number in peer.asked else [number])

        machine.answer = noted  # type: ignore[method-assign]
        while machine.core.spiller.is_busy:
            machine.conclude()
        assert order == [8, 5, 6, 7]
        assert not first.asked | second.asked | third.asked
    finally:
        machine.teardown()


def test_who_holds_nothing_any_more_comes_after_those_before_it() -> None:
    machine = Admissions()
    lifetimes = machine.lifetimes
    try:
        for pages in (4, 4, 8):
            machine.put(0, pages)
        small, held = (n.to_bytes(16, "big") for n in (1, 2))
        holder = machine.peers[2]
        lifetimes.take_hold(holder, held)  # type: ignore[arg-type]
        machine.core.evictor.spill_ahead([small])
        machine.put(1, 2)
        machine.put(2, 8)
        machine.conclude()
        assert holder.asked, "more is written for who holds something"
        assert machine.peers[1].asked
        holder.holds.clear()
        lifetimes.release(held, 1)
        machine.conclude()  # it checks the order
        assert not machine.peers[1].asked | holder.asked
    finally:
        machine.teardown()


@pytest.mark.parametrize("pages", [17, 100])
def test_more_than_there_is_is_refused_at_once(pages: int) -> None:
    machine = Admissions()
    try:
        machine.put(0, 16)
        stored = machine.state.table.bytes_stored
        machine.put(1, pages)
        assert machine.state.table.bytes_stored == stored
        assert not machine.core.spiller.is_busy, "nothing goes for it"
        assert not machine.peers[1].asked
    finally:
        machine.teardown()


def test_nothing_that_the_server_keeps_is_part_of_a_cycle() -> None:
    """It does not look for old ones (see `collect_young_garbage`)."""
    machine = Admissions()
    lifetimes = machine.lifetimes
    try:
        gc.collect()
        gc.disable()
        for n in range(1, 201):
            object_id = n.to_bytes(16, "big")
            machine.put(0, 1)
            lifetimes.take_hold(machine.peers[1], object_id)  # type: ignore[arg-type]
            lifetimes.release(object_id, 1)
            machine.tick()
            machine.conclude()
            lifetimes.delete(object_id)
        assert not machine.state.table.objects
        assert gc.collect() < 200
    finally:
        gc.enable()
        machine.teardown()
