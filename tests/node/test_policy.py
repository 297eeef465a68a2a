"""Eviction policies: their order, and the real evictor over random histories of a store."""

import contextlib
import math
import os
import select
import selectors
import tempfile
from collections import Counter
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.helpers import policies
from zerrow_store.policy import POLICIES, Adaptive, Candidate, Lru, Rollback, Swap, load_policy
from zerrow_store.protocol import events
from zerrow_store.protocol.fields import Counters
from zerrow_store.protocol.places import Freed
from zerrow_store.server.core import Core
from zerrow_store.server.eviction_queue import EvictionQueue

_WAYS = st.dictionaries(st.sampled_from(["drop", "spill"]), st.floats(1e-6, 10.0), max_size=2)


@given(
    st.sampled_from(sorted(POLICIES)),
    st.lists(st.tuples(st.integers(0, 9), st.integers(1, 1000), _WAYS, st.booleans())),
)
def test_the_queue_holds_what_was_added_last_and_not_discarded(name, history):
    policy = load_policy(name)
    queue, model = EvictionQueue(policy), {}
    for now, (key, nbytes, ways, stays) in enumerate(history):
        candidate = Candidate(key, nbytes, ways, float(now))
        model.pop(key, None)
        queue.add(candidate)
        if stays and ways and policy.way(candidate) is not None:
            model[key] = candidate
        else:
            queue.discard(key)
    assert queue.nbytes == sum(each.nbytes for each in model.values())
    popped = []
    while chosen := queue.pop():
        candidate, way = chosen
        assert model[candidate.key] == candidate
        assert way == policy.way(candidate)
        popped.append(candidate)
    assert sorted(c.key for c in popped) == sorted(model)
    assert queue.nbytes == 0
    # Nothing was evicted before: the order is that of the ranks, from no floor.
    ranks = [policy.rank(candidate, 0.0) for candidate in popped]
    assert ranks == sorted(ranks)


def order(policy, *candidates):
    queue = EvictionQueue(policy)
    for candidate in candidates:
        queue.add(candidate)
    return [(c.key, way) for c, way in iter(queue.pop, None)]


def test_what_each_policy_prefers():
    dear = Candidate("dear", 100, {"drop": 9.0, "spill": 1.0}, 1.0)
    cheap = Candidate("cheap", 100, {"drop": 0.1, "spill": 1.0}, 3.0)
    plain = Candidate("plain", 100, {"spill": 1.0}, 2.0)
    all_three = (dear, plain, cheap)
    assert order(Adaptive(), *all_three) == [
        ("cheap", "drop"),
        ("dear", "spill"),
        ("plain", "spill"),
    ]
    assert order(Swap(), *all_three) == [("dear", "spill"), ("plain", "spill"), ("cheap", "spill")]
    assert order(Rollback(), *all_three) == [
        ("cheap", "drop"),
        ("dear", "drop"),
        ("plain", "spill"),
    ]
    assert order(Lru(), *all_three) == [("dear", "spill"), ("plain", "spill"), ("cheap", "drop")]
    assert order(load_policy("none"), *all_three) == []


def test_what_is_used_last_goes_first_where_that_is_known():
    ways = {"drop": 1.0, "spill": 1.0}
    soon, late = (Candidate(n, 100, ways, 0.0, next_use=n) for n in (2, 9))
    for policy in (Adaptive(), Swap(), Rollback()):
        assert [key for key, _ in order(policy, soon, late)] == [9, 2]
    # Ten times as dear for five times the time.
    dear = Candidate("dear", 100, {"drop": 10.0, "spill": 10.0}, 0.0, next_use=10)
    assert order(Rollback(), dear, soon)[0] == (2, "drop")


def test_what_is_dear_ages_against_a_stream_of_cheap_ones():
    queue = EvictionQueue(Adaptive())
    queue.add(Candidate("dear", 100, {"spill": 1.0}, 0.0))
    for n in range(1000):
        queue.add(Candidate(n, 100, {"drop": 0.1, "spill": 1.0}, float(n)))
        candidate, _ = queue.pop()
        if candidate.key == "dear":
            break
    assert candidate.key == "dear"
    assert n < 20


def test_an_own_policy_is_named_by_its_class():
    policy = load_policy(policies.NAME)
    old, new = (Candidate(n, 1, {"spill": 1.0}, float(n)) for n in range(2))
    assert [key for key, _ in order(policy, old, new)] == [1, 0]
    with pytest.raises(ValueError, match="adaptive, swap, rollback, lru, none"):
        load_policy("newest")


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("no_such_module:Class", "No module named 'no_such_module'"),
        (f"{__name__}:NoSuchClass", "no attribute 'NoSuchClass'"),
        ("os:PathLike.x", "no attribute"),
        (":Class", "no eviction policy"),
        ("relative.:Class", "no eviction policy"),
        ("builtins:object", "has no way and no rank"),
        ("os:sep", "has no way and no rank"),
    ],
)
def test_what_is_no_policy_is_said(name: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        load_policy(name)


PAGE = 4096
BUDGET = 16 * PAGE
SIZE = 256 * PAGE


class Histories(RuleBasedStateMachine):
    """a real object table, spiller and evictor; the model knows each object's bytes and who holds
    it."""

    policy = "adaptive"

    def __init__(self):
        super().__init__()
        self.directory = tempfile.TemporaryDirectory()
        self.selector = selectors.DefaultSelector()
        with mock.patch.dict(os.environ, ZERROW_SPILL_DIR=self.directory.name):
            self.core = Core(BUDGET, load_policy(self.policy), self.selector)
        state = self.core.state
        self.table, self.descriptors, self.holders = state.table, state.descriptors, state.holders
        self.spiller, self.evictor = self.core.spiller, self.core.evictor
        self._delete = self.core.lifetimes.delete
        self.core.lifetimes.delete = self.drop
        state.give_back = self.give_back
        self.segment = os.urandom(16)
        fd = os.memfd_create("history")
        os.ftruncate(fd, SIZE)
        state.add_segment(events.SegmentAdded(self.segment, SIZE, os.getpid(), 0), fd)
        self.bytes: dict[bytes, bytes] = {}
        self.cached: set[bytes] = set()
        self.seen_by_holder: dict[bytes, dict] = {}
        self.free = {page * PAGE for page in range(SIZE // PAGE)}
        self.serial = 0
        self.holder = SimpleNamespace(holds=Counter(), identity=b"")

    def give_back(self, freed: Freed) -> None:
        for segment_id, offsets in freed:
            if segment_id == self.segment:
                self.free |= {
                    int.from_bytes(offsets[i : i + 8], "little") for i in range(0, len(offsets), 8)
                }

    def end(self, object_id: bytes) -> None:
        assert not self.holders[object_id]
        self._delete(object_id)
        self.core.effects.take()
        self.bytes.pop(object_id)
        self.cached.discard(object_id)

    def drop(self, object_id: bytes) -> None:
        assert object_id in self.cached
        assert self.policy != "swap"
        self.end(object_id)

    def await_job(self) -> None:
        if self.spiller.is_busy:
            assert select.select([self.spiller.done], [], [], 30)[0]
            self.evictor.conclude()

    @rule(pages=st.integers(1, 5), seconds=st.none() | st.floats(1e-7, 1e-2))
    def put(self, pages, seconds):
        offsets = sorted(self.free)[:pages]
        needed = pages * PAGE
        # As the server does it: a put that does not fit waits for the job, and tries again.
        for _ in range(100):
            if self.table.bytes_stored + needed <= BUDGET:
                break
            idle = sum(
                self.table.objects[o].nbytes - self.table.objects[o].bytes_spilled
                for o in self.bytes
                if not self.holders[o]
            )
            if not self.evictor.make_room(needed):
                excess = self.table.bytes_stored + needed - BUDGET
                assert self.policy == "none" or idle < excess, "it was refused without need"
                return
            self.await_job()
        else:
            raise AssertionError("a put starves")
        self.serial += 1
        object_id = self.serial.to_bytes(16, "big")
        for n, offset in enumerate(offsets):
            os.pwrite(self.descriptors[self.segment], object_id * (PAGE // 16), offset)
            assert offset in self.free, n
        self.free -= set(offsets)
        packed = b"".join(o.to_bytes(8, "little") + PAGE.to_bytes(8, "little") for o in offsets)
        put = object_id, [(self.segment, packed)], None, False, None, Counters(), 0.0
        added = events.ObjectAdded(*put)
        if seconds is None:
            self.table.apply(added)
        else:
            column = b"file", "path", ("v", str(self.serial)), [(0, 1)], seconds
            self.table.apply(events.ColumnAdded(added, *column, hits=0, used=0.0))
            self.cached.add(object_id)
        self.bytes[object_id] = object_id * (PAGE // 16) * pages
        self.core.lifetimes.entered(object_id)

    @precondition(lambda self: self.bytes)
    @rule(data=st.data())
    def hold(self, data):
        object_id = data.draw(st.sampled_from(sorted(self.bytes)))
        self.core.lifetimes.take_hold(self.holder, object_id)
        if self.holders[object_id] == 1:
            self.seen_by_holder[object_id] = dict(self.table.objects[object_id].moved)

    @precondition(lambda self: any(self.holders.values()))
    @rule(data=st.data())
    def release(self, data):
        object_id = data.draw(st.sampled_from(sorted(+self.holders)))
        self.core.lifetimes.release(object_id, 1)
        if not self.holders[object_id]:
            del self.seen_by_holder[object_id]

    @precondition(lambda self: any(not self.holders[o] for o in self.bytes))
    @rule(data=st.data())
    def delete(self, data):
        idle = [o for o in self.bytes if not self.holders[o]]
        self.end(data.draw(st.sampled_from(sorted(idle))))

    @rule(resident=st.integers(0, 2 * BUDGET))
    def tick(self, resident):
        self.evictor.tick(resident)

    @rule()
    def conclude(self):
        self.await_job()

    @invariant()
    def the_budget_is_kept(self):
        assert self.table.bytes_stored <= BUDGET

    @invariant()
    def what_is_held_stays_where_it_is(self):
        for object_id, moved in self.seen_by_holder.items():
            assert self.table.objects[object_id].moved == moved

    @invariant()
    def every_byte_is_there(self):
        assert set(self.table.objects) == set(self.bytes)
        for object_id, expected in self.bytes.items():
            found = b""
            for segment_id, packed in self.table.objects[object_id].allocations:
                for i in range(0, len(packed), 16):
                    offset, size = (
                        int.from_bytes(packed[i + n : i + n + 8], "little") for n in (0, 8)
                    )
                    found += os.pread(self.descriptors[segment_id], size, offset)
            assert found == expected

    def teardown(self):
        self.await_job()
        for fd in self.descriptors.values():
            os.close(fd)
        self.selector.close()
        os.close(self.spiller.done)
        with contextlib.suppress(OSError):
            os.close(self.spiller._finished)
        self.directory.cleanup()


def histories(name: str) -> type:
    machine = type(f"Histories_{name}", (Histories,), {"policy": name})
    machine.TestCase.settings = settings(max_examples=25, stateful_step_count=40, deadline=None)
    return machine.TestCase


TestAdaptive = histories("adaptive")
TestSwap = histories("swap")
TestRollback = histories("rollback")
TestLru = histories("lru")
TestNone = histories("none")


class Unsound:
    """A policy that raises, names no way of the candidate's, or ranks by no number."""

    def __init__(self, way: str | None = "spill", rank: object = (0.0, 0.0)) -> None:
        self._way, self._rank = way, rank

    def way(self, candidate: Candidate) -> str | None:
        if self._way is None:
            raise LookupError("unforeseen")
        return self._way

    def rank(self, candidate: Candidate, floor: float) -> Any:
        return self._rank


@pytest.mark.parametrize(
    "policy",
    [Unsound(None), Unsound("burn"), Unsound(rank=(0.0, math.nan)), Unsound(rank=None)],
    ids=["raises", "no way", "nan", "no rank"],
)
def test_a_policy_that_fails_breaks_no_put(policy: Any, caplog: pytest.LogCaptureFixture) -> None:
    queue = EvictionQueue(policy)
    for key in range(3):
        queue.add(Candidate(key, 10, {"spill": 1.0 + key}, 0.0))
    assert [queue.pop()[0].key for _ in range(3)] == [0, 1, 2]
    assert [record.levelname for record in caplog.records] == ["ERROR"]
