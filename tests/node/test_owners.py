"""Objects that belong to another process than the one that publishes them."""

import os
import signal
from collections.abc import Iterator

import pytest

from tests.helpers.data import table
from tests.helpers.owners import PUBLISH, owner
from tests.helpers.processes import halt, kill
from tests.helpers.python import Worker
from tests.helpers.stores import Store
from tests.helpers.waiting import eventually, wait_until
from zerrow_store.client.client import Client
from zerrow_store.errors import NoOwnerError
from zerrow_store.native import _native
from zerrow_store.protocol.messages import Carrier

BUDGET = 64 << 20


@pytest.fixture
def store(name: str) -> Iterator[Store]:
    running = Store(name, budget=BUDGET)
    yield running
    running.stop()


@pytest.fixture
def producer(store: Store) -> Worker:
    worker = store.worker()
    worker.do(PUBLISH)
    return worker


def stored(store: Store) -> int:
    return store.connected().stats().bytes_stored


def test_a_known_owner_is_told_and_deletes_the_object(store, producer):
    anna = owner(store, b"anna")
    assert producer.do("publish(b'object', b'item', b'anna')")
    wait_until(lambda: anna.do("owner.stored") == [(b"object", b"item")])
    assert anna.do("owner.asked") == []
    assert stored(store) > 0
    anna.do("owning.delete(b'object')")
    assert stored(store) == 0


def test_an_object_outlives_its_producer_and_ends_with_its_owner(store, producer):
    anna = owner(store, b"anna")
    assert producer.do("publish(b'known', b'item', b'anna')")
    assert producer.do("publish(b'claimed', b'anna 1')")
    producer.kill()
    client = store.connected()
    for object_id in (b"known", b"claimed"):
        client.hold(object_id)
    anna.kill()
    eventually(lambda: stored(store) == 0, "the owner's objects are gone", seconds=20)


def test_the_owner_is_found_and_asked_first_from_then_on(store, producer):
    anna, bert = owner(store, b"anna"), owner(store, b"bert")
    for i in range(5):
        assert producer.do(f"publish(b'{i}', b'bert {i}')")
    assert len(bert.do("owner.asked")) == 5
    assert len(anna.do("owner.asked")) == 1
    assert producer.do("publish(b'another', b'anna 1')")
    assert anna.do("owner.stored") == bert.do("owner.stored") == []


@pytest.mark.parametrize("owners", [(), (b"anna",), (b"anna", b"bert")])
@pytest.mark.parametrize("known", [b"", b"cleo"])
def test_what_nobody_owns_is_refused(store, producer, owners, known):
    workers = [owner(store, each) for each in owners]
    assert not producer.do(f"publish(b'object', b'cleo 1', {known!r})")
    assert store.connected().stats().objects == stored(store) == 0
    # Nothing of it stays pinned, and the id is free.
    assert producer.do("gc.collect(); _native.arena_stats()['pinned']") == 0
    if workers:
        assert producer.do("publish(b'object', b'anna 1')")


def test_an_owner_may_let_go_before_it_is_heard_that_it_is_the_owner(store, producer):
    anna = owner(store, b"anna")
    anna.do("""
        other = zerrow_store.connect(owning.name)
        def claims(object_id, reference):
            other.delete(object_id, missing_ok=True)
            return True
        owner.claims = claims
    """)
    assert not producer.do("publish(b'object', b'anna 1')")
    assert stored(store) == 0


def test_an_owner_may_let_go_of_what_waits_for_room(store, producer):
    anna = owner(store, b"anna")
    anna.do("""
        import numpy as np
        big = pa.table({"x": pc.add(pa.array(np.arange(7_000_000)), 1)})
        owning.put(big, object_id=b"big")
    """)
    kill(store.server_pid())  # until its readers are back, what is there may not be evicted
    producer.do("rows = pa.array(range(3_000_000), pa.int64())")
    producer.start("publish(b'object', b'anna 1')")
    wait_until(lambda: anna.do("owner.asked"))
    anna.do("owning.delete(b'object', missing_ok=True)")
    assert not producer.finish()


def test_who_does_not_answer_holds_up_nobody(store, producer):
    anna, bert = owner(store, b"anna"), owner(store, b"bert")
    halt(anna.pid)
    try:
        assert producer.do("publish(b'object', b'bert 1')")
        assert not producer.do("publish(b'another', b'cleo 1')")
    finally:
        os.kill(anna.pid, signal.SIGCONT)
    wait_until(lambda: producer.do("publish(b'another', b'anna 1')"))  # as soon as she is awake
    assert bert.do("owner.stored") == []


def test_an_owner_that_ends_while_it_is_asked(store, producer):
    anna = owner(store, b"anna")
    halt(anna.pid)
    producer.start("publish(b'object', b'anna 1')")
    anna.kill()
    assert not producer.finish()
    assert stored(store) == 0


def test_a_producer_that_ends_while_its_object_is_asked_about(store, producer):
    anna = owner(store, b"anna")
    halt(anna.pid)
    producer.start("publish(b'object', b'anna 1')")
    wait_until(lambda: store.connected().stats().segments == 2)
    producer.kill()
    os.kill(anna.pid, signal.SIGCONT)
    wait_until(lambda: anna.do("owner.asked") or stored(store) == 0)
    # Where she was quicker than the news of its end it is hers, as any other.
    anna.do("owning.delete(b'object', missing_ok=True)")
    eventually(lambda: stored(store) == 0, "nothing of it is left", seconds=20)


def test_a_store_that_was_started_again_tells_owners_once_more(store, producer):
    anna = owner(store, b"anna")
    assert producer.do("publish(b'object', b'item', b'anna')")
    wait_until(lambda: anna.do("owner.stored"))
    anna.do("owner.stored.clear()")
    kill(store.server_pid())
    wait_until(lambda: anna.do("owner.stored") == [(b"object", b"item")])
    assert producer.do("publish(b'claimed', b'anna 1')")
    anna.do("owning.delete([b'object', b'claimed'])")
    eventually(lambda: stored(store) == 0, "the objects are gone", seconds=20)


def test_what_is_published_again_is_there_already_whoever_owns_it(store, producer):
    # So a process that asks again after a crash of the store keeps what has counted.
    anna = owner(store, b"anna")
    assert producer.do("publish(b'known', b'item', b'anna')")
    assert producer.do("publish(b'claimed', b'anna 1')")
    for arguments in ("b'known', b'item', b'cleo'", "b'claimed', b'cleo 1'"):
        with pytest.raises(AssertionError, match="ObjectExistsError"):
            producer.do(f"publish({arguments})")
    assert anna.do("len(owner.asked)") == 1


def test_a_forked_child_owns_nothing(store, producer):
    anna = owner(store, b"anna")
    anna.do("""
        child = os.fork()
        if not child:
            owning.stats()  # connects
            os.read(os.pipe()[0], 1)
    """)
    assert producer.do("publish(b'object', b'item', b'anna')")
    wait_until(lambda: anna.do("owner.stored"))
    anna.do("os.kill(child, 9); os.waitpid(child, 0)")


def test_a_client_of_another_kind_claims_nothing(store):
    client = store.connected()
    with pytest.raises(NoOwnerError):
        client.publish(b"object", _native.encode(table()), carrier=Carrier(b"1", b""))
    assert isinstance(client, Client)
    assert stored(store) == 0
