"""Copies of other machines' objects: they stay until the object goes, or memory is short.

The agents' parts for it run in this process; the stores, producers and owners are others.
"""

import pytest

from tests.helpers.data import MIB, table_of
from tests.helpers.links import Link
from tests.helpers.machines import Node, Object, decoded, know
from tests.helpers.processes import kill
from tests.helpers.waiting import wait_until
from zerrow_store.client.connection import Connection
from zerrow_store.errors import (
    ObjectGoneError,
    ObjectLostError,
    ObjectNotFoundError,
    ProtocolError,
)
from zerrow_store.protocol.messages import Land

PUBLISH = """
    import os
    from zerrow_store.native import _native
    from zerrow_store.protocol.messages import Carrier
    def publish(carrier, size=100_000):
        encoded = _native.encode(pa.table({"x": pc.add(pa.array(range(size), pa.int64()), 0)}))
        object_id = os.urandom(16)
        client.publish(object_id, encoded, owned=carrier is None, carrier=carrier)
        return object_id, encoded.message, _native.message_allocations(encoded.message)
"""


def publish(producer, reference: bytes = b"") -> Object:
    """Publish for the owner of a reference; without one, for the producer itself."""
    carrier = f"Carrier({reference!r})" if reference else "None"
    return Object(*producer.do(f"publish({carrier})"))


def fetch(node: Node, location: str, wanted: Object):
    """Land an object on a machine, and read it there."""
    node.receiver.fetch(location, wanted.object_id, wanted.allocations)
    return read(node, wanted)


def read(node: Node, wanted: Object):
    """Read what is on a machine already. Raises ObjectNotFoundError."""
    client = node.connected()
    hold = client.hold(wanted.object_id)
    places = [hold.moved[segment, offset] for segment, offset, _ in wanted.allocations]
    client.ensure_places(places, hold)
    return decoded(wanted, places, hold)


def is_at(node: Node, wanted: Object) -> bool:
    return wanted.object_id in {info.object_id for info in node.connected().list()}


@pytest.fixture
def node():
    """Makes machines whose agents know all others, made before and after."""
    made: list[Node] = []

    def make(**options) -> Node:
        made.append(Node(**options).begin())
        for each in made:
            know(each, *(other for other in made if other is not each))
        return made[-1]

    yield make
    for each in made:
        each.neighbours.update({})
    for each in made:
        each.stop()


@pytest.fixture
def home(node) -> Node:
    """Where objects are made."""
    return node()


@pytest.fixture
def producer(home):
    worker = home.worker()
    worker.do(PUBLISH)
    return worker


@pytest.fixture
def near(node) -> Node:
    """Where their owners are."""
    return node()


@pytest.fixture
def anna(near):
    return near.owner(b"anna")


ROWS = list(range(100_000))


def test_the_next_reader_finds_it_though_the_first_has_gone(home, node):
    here = node()
    way = Link(home.location)
    know(here, home=way.location)
    wanted = home.publish(table_of(MIB))
    for _ in range(3):
        assert fetch(here, way.location, wanted).equals(table_of(MIB))
    way.close()
    assert read(here, wanted).equals(table_of(MIB))
    assert way.forwarded < 1.5 * MIB


def test_it_goes_with_the_object(home, node):
    here, there = node(), node()
    wanted = home.publish(table_of(MIB))
    for each in here, there:
        fetch(each, home.location, wanted)
    fetch(there, home.location, home.publish(table_of(MIB, 1)))
    home.connected().delete(wanted.object_id)
    wait_until(here.is_empty)
    wait_until(lambda: there.connected().stats().objects == 1)


def test_it_goes_with_the_end_of_the_objects_owner(producer, home, node):
    here = node()
    wanted = publish(producer)
    assert fetch(here, home.location, wanted)["x"].to_pylist() == ROWS
    producer.kill()
    wait_until(here.is_empty)
    wait_until(home.is_empty)


def test_who_reads_it_keeps_it(home, node):
    here = node()
    wanted = home.publish(table_of(MIB))
    arrived = fetch(here, home.location, wanted)
    home.connected().delete(wanted.object_id)
    with pytest.raises(ObjectNotFoundError):
        wait_until(lambda: here.connected().hold(wanted.object_id) is None)
    assert arrived.equals(table_of(MIB))
    del arrived
    wait_until(here.is_empty)


@pytest.mark.parametrize("end", ["let go", "kill"])
@pytest.mark.parametrize("places", [["third"], ["near"], ["near", "third"]])
def test_it_goes_when_an_owner_elsewhere_lets_go(producer, home, near, anna, node, places, end):
    machines = {"near": near, "third": node()}
    wanted = publish(producer, b"anna 1")
    for place in places:
        assert fetch(machines[place], home.location, wanted)["x"].to_pylist() == ROWS
        assert is_at(machines[place], wanted)
    if end == "kill":
        anna.kill()
    else:
        anna.do(f"owning.delete({wanted.object_id!r})")
    for each in (home, *machines.values()):
        wait_until(each.is_empty)


def test_a_copy_of_a_copy_goes_as_well(producer, home, near, anna, node):
    second, third = node(), node()
    wanted = publish(producer, b"anna 1")
    fetch(near, home.location, wanted)
    fetch(second, near.location, wanted)
    assert fetch(third, second.location, wanted)["x"].to_pylist() == ROWS
    anna.do(f"owning.delete({wanted.object_id!r})")
    for each in home, near, second, third:
        wait_until(each.is_empty)


@pytest.mark.parametrize("place", ["near", "third"])
def test_it_is_found_when_its_home_is_gone(producer, home, near, anna, node, place):
    machines = {"near": near, "third": node(), "last": node()}
    wanted = publish(producer, b"anna 1")
    fetch(machines[place], home.location, wanted)
    producer.kill()
    home.connected().shutdown()
    for name, each in machines.items():
        know(each, *(other for other in machines.values() if other is not each))
        assert fetch(each, "", wanted)["x"].to_pylist() == ROWS, name
    anna.do(f"owning.delete({wanted.object_id!r})")
    for each in machines.values():
        wait_until(each.is_empty)
    for each in machines.values():
        with pytest.raises(ObjectGoneError, match="on no machine"):
            fetch(each, "", wanted)


@pytest.mark.parametrize("size", [MIB, 20 * MIB])
def test_what_a_machine_that_does_not_answer_may_have_is_not_gone(home, node, size):
    here, other = node(), node()
    wanted = home.publish(table_of(size))
    know(here, other)
    with pytest.raises(ObjectGoneError):
        fetch(here, "", wanted)
    know(here, other, silent="127.0.0.1:1")
    for _ in range(2):
        with pytest.raises(ObjectLostError, match="that answers") as caught:
            fetch(here, "", wanted)
        assert type(caught.value) is ObjectLostError


def test_it_goes_when_the_machine_has_left_that_would_say_so(home, node):
    here = node()
    fetch(here, home.location, home.publish(table_of(MIB)))
    know(here)
    wait_until(here.is_empty)


@pytest.mark.parametrize("place", ["near", "third"])
def test_it_goes_before_anything_is_spilled(producer, home, near, anna, node, place):
    small = near if place == "near" else node(budget=64 * MIB)
    budget = small.connected().stats().budget
    own = small.connected().put(table_of(16 * MIB))
    wanted = publish(producer, b"anna 1")
    fetch(small, home.location, wanted)
    large = [small.connected().put(table_of(budget // 4, n)) for n in range(3)]
    wait_until(lambda: not is_at(small, wanted))
    (record,) = [each for each in small.connected().evictions() if each.way == "drop"]
    assert record.nbytes == sum(size for *_, size in wanted.allocations)
    small.connected().delete(large)
    assert small.connected().get(own).equals(table_of(16 * MIB))
    assert fetch(small, home.location, wanted)["x"].to_pylist() == ROWS
    anna.do(f"owning.delete({wanted.object_id!r})")
    wait_until(lambda: not is_at(small, wanted))
    wait_until(home.is_empty)


def test_what_was_made_of_it_outlives_it(home, node):
    here = node()
    wanted = home.publish(table_of(MIB))
    part = fetch(here, home.location, wanted).slice(1000)
    made = here.connected().put(part)
    home.connected().delete(wanted.object_id)
    wait_until(lambda: not is_at(here, wanted))
    del part

    def is_on_disk() -> bool:
        here.connected().spill_ahead([made])  # as soon as the copy has gone
        return here.connected().stats().bytes_stored == 0

    wait_until(is_on_disk)
    assert here.connected().get(made).equals(table_of(MIB).slice(1000))


@pytest.mark.parametrize("away", ["agent here", "agent at home", "store here", "store at home"])
def test_what_goes_while_somebody_is_away(home, node, away):
    here = node()
    kept, wanted = home.publish(table_of(MIB, 1)), home.publish(table_of(MIB))
    for each in kept, wanted:
        fetch(here, home.location, each)
    whose = here if away.endswith("here") else home
    if away.startswith("agent"):
        whose.leave()
    else:
        kill(whose.server_pid())
    home.connect().delete(wanted.object_id)
    if away.startswith("agent"):
        whose._clients.clear()
        whose.begin()
        know(here, home)
        here.neighbours.take_up()
    wait_until(lambda: not is_at(here, wanted))
    assert read(here, kept).equals(table_of(MIB, 1))
    home.connected().delete(kept.object_id)
    wait_until(here.is_empty)


def test_what_went_while_it_landed(home, node):
    """It was read, and then deleted, before this machine could say that it follows it."""
    here = node()
    way = Link(home.location)
    know(here, home=way.location)
    wanted = home.publish(table_of(MIB))
    follow = here.neighbours.follow

    def late(*arguments: bytes) -> None:
        home.connected().delete(wanted.object_id)
        follow(*arguments)

    here.neighbours.follow = late
    here.receiver.fetch(way.location, wanted.object_id, wanted.allocations)
    wait_until(here.is_empty)
    way.close()


def test_only_the_agent_lands_and_only_what_it_holds(home, node):
    here = node()
    wanted = home.publish(table_of(MIB))
    (first, *_) = wanted.allocations
    own = here.connected().put(table_of(MIB))
    moved = [(*first[:2], *first[:2])]
    for client in (here.connect(), here.receiver._client):
        with pytest.raises(ProtocolError, match="only the transfer agent may land"):
            client._connection.request(Land(wanted.object_id, own, moved, b""))
    client = here.receiver._client
    hold = client.hold(own)
    with pytest.raises(ProtocolError, match="outside of the landed object"):
        client.land(wanted.object_id, own, moved, b"")
    del hold
    assert not is_at(here, wanted)


def test_a_copy_that_is_entered_twice_around_a_crash_goes_with_its_object(home, node, monkeypatch):
    """The store ended after it was entered, and was asked again."""
    here, send = node(), Connection.send

    def sent_again(self, request):
        if isinstance(request.message, Land):
            self.wait(send(self, type(request)(request.message, self)))
            request.resent = True
        return send(self, request)

    monkeypatch.setattr(Connection, "send", sent_again)
    wanted = home.publish(table_of(MIB))
    assert fetch(here, home.location, wanted).equals(table_of(MIB))
    assert is_at(here, wanted)
    home.connected().delete(wanted.object_id)
    wait_until(here.is_empty)
