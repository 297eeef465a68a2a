"""One object to several machines: its source sends two copies, and those that have it the others.

Copies that are killed, gone, or no copies at all: right bytes, and nothing is left.

The file is long because each death of a receiver is a case.
"""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.helpers.data import MIB, table_of
from tests.helpers.links import BEHAVIOURS, refusal
from tests.helpers.machines import SECURITY, Fetching, Machine, decoded, open_client, receiver_of
from tests.helpers.processes import kill
from tests.helpers.waiting import wait_until
from zerrow_store.errors import ObjectLostError, StoreFullError
from zerrow_store.transfer import channel, messages, tracker
from zerrow_store.transfer.channel import Channel, connect
from zerrow_store.transfer.followers import Followers
from zerrow_store.transfer.segment_files import FileClient
from zerrow_store.transfer.sender import Sender

SIZE = 20 * MIB
"""More than what is read without asking."""

SIZES = [SIZE, 70 * MIB]
"""Over one connection, over several."""


def seek(source: str, wanted, location: str = "") -> Channel:
    """Ask where an object is to be read, as a machine does that serves at `location`."""
    peer = connect(source, SECURITY)
    peer.send(messages.Seek(wanted.object_id, location))
    return peer


def place(source: str, wanted) -> str:
    """Return where a machine that asks now is told to read."""
    with seek(source, wanted) as peer:
        answer = peer.receive(messages.PLACE)
    assert isinstance(answer, messages.At)
    return answer.location


def wait_for_copy(source: str, wanted, location: str) -> None:
    """Wait until the source knows of a copy: it is told when whoever fetched that has it."""
    wait_until(lambda: place(source, wanted) == location)


def pretend(source: str, wanted, location: str) -> None:
    """Have the source believe that there is a copy at a location."""
    with seek(source, wanted, location) as peer:
        assert isinstance(peer.receive(messages.PLACE), messages.At)
        peer.send(messages.Tried(True))
    wait_for_copy(source, wanted, location)


@pytest.fixture
def copy(machine) -> Machine:
    """A machine that has a copy, when it has fetched it."""
    made: Machine = machine()
    made.serve()
    return made


@pytest.fixture
def sender(there):
    """The sender of `there`, in this process."""
    client = open_client(there, FileClient)
    return Sender(client, SECURITY, "127.0.0.1", Followers(client))


def test_the_source_sends_two_copies_to_eight_machines(there, machine, link):
    way = link()
    wanted = there.publish(table_of(SIZE))
    machines = [machine() for _ in range(8)]
    for each in machines:
        each.serve()
    with ThreadPoolExecutor(8) as pool:
        arrived = list(pool.map(lambda each: each.fetch(way.location, wanted), machines))
    assert all(each.equals(table_of(SIZE)) for each in arrived)
    assert way.forwarded < 2 * SIZE + MIB
    del arrived
    for each in machines:
        wait_until(each.is_empty)
    wait_until(lambda: there.connected().list()[0].holds == 0)


def test_copies_that_nobody_reads_any_more_are_kept_for_those_who_wait(there, machine, link):
    """A task may be done with a table before the next machine has begun to read it there."""
    way = link()
    wanted = there.publish(table_of(SIZE))
    machines = [machine() for _ in range(6)]
    for each in machines:
        each.serve()
    with ThreadPoolExecutor(6) as pool:
        landed = pool.map(lambda each: len(each.land(way.location, wanted)[0]), machines)
        assert list(landed) == [1] * 6
    assert way.forwarded < 2 * SIZE + MIB
    for each in machines:
        wait_until(each.is_empty)


def test_one_machine_after_the_other(there, machine, link):
    """The first copy is read by all others, as long as it is there."""
    way = link()
    wanted = there.publish(table_of(SIZE))
    arrived = []
    for each in [machine() for _ in range(4)]:
        location = each.serve()
        arrived.append(each.fetch(way.location, wanted))
        wait_for_copy(way.location, wanted, location)
    assert all(each.equals(table_of(SIZE)) for each in arrived)
    assert way.forwarded < SIZE + MIB


def test_who_serves_nowhere_is_told_of_copies_and_is_none(there, here, copy):
    source, wanted = there.serve(), there.publish(table_of(SIZE))
    assert here.fetch(source, wanted).equals(table_of(SIZE))
    assert place(source, wanted) == ""
    kept = copy.fetch(source, wanted)
    wait_for_copy(source, wanted, copy.serve())
    del kept


def test_small_objects_are_not_asked_for_first(there, here, link):
    way = link()
    wanted = there.publish(table_of(MIB))
    here.serve()
    assert here.fetch(way.location, wanted).equals(table_of(MIB))
    assert way.connections == 1
    assert place(way.location, wanted) == ""


# --- copies that go ---


@pytest.mark.parametrize("size", SIZES)
def test_a_copy_that_was_killed_before(there, here, copy, size):
    source, wanted = there.serve(), there.publish(table_of(size))
    kept, gone = copy.fetch(source, wanted), copy.serve()
    wait_for_copy(source, wanted, gone)
    kill(copy.agent())
    assert place(source, wanted) == gone
    here.serve()
    arrived = here.fetch(source, wanted)
    assert arrived.equals(table_of(size))
    assert kept.equals(table_of(size))
    wait_for_copy(source, wanted, here.serve())


@pytest.mark.parametrize("size", SIZES)
def test_a_copy_that_is_killed_amid_a_transfer(there, here, copy, link, size):
    fetching, way, _ = amid(there, here, copy, link, size)
    kill(copy.agent())
    way.set_limit(None)
    assert fetching.result().equals(table_of(size))
    wait_until(lambda: here.connected().stats().objects == 1)
    assert place(there.serve(), fetching.wanted) == ""
    del fetching
    wait_until(here.is_empty)


@pytest.mark.parametrize("size", SIZES)
def test_a_source_that_is_killed_while_a_copy_is_read(there, here, copy, link, size):
    fetching, way, _ = amid(there, here, copy, link, size)
    kill(there.agent())
    way.set_limit(None)
    assert fetching.result().equals(table_of(size))


@pytest.mark.parametrize("size", SIZES)
def test_a_source_and_a_copy_that_are_killed(there, here, copy, link, size):
    fetching, way, _ = amid(there, here, copy, link, size)
    kill(copy.agent())
    kill(there.agent())
    way.set_limit(None)
    assert isinstance(fetching.result(), ObjectLostError)
    wait_until(here.is_empty)


@pytest.mark.parametrize("size", SIZES)
def test_a_receiver_that_is_killed_while_it_reads_a_copy(there, here, copy, link, size):
    """Another one begins anew; what was assigned to the first one is free."""
    fetching, way, kept = amid(there, here, copy, link, size)
    kill(here.agent())
    way.set_limit(None)
    arrived = fetching.result()
    assert arrived.equals(table_of(size))
    wait_until(lambda: here.connected().stats().objects == 1)
    del arrived, fetching, kept
    wait_until(here.is_empty)
    wait_until(copy.is_empty)
    wait_until(lambda: there.connected().list()[0].holds == 0)


def test_a_copy_that_is_let_go_of_amid_a_transfer_stays_until_its_end(there, here, copy, link):
    fetching, way, kept = amid(there, here, copy, link, SIZE)
    del kept
    way.set_limit(None)
    assert fetching.result().equals(table_of(SIZE))
    assert way.forwarded >= SIZE
    wait_until(copy.is_empty)


def test_a_copy_that_is_gone(there, here, copy, link):
    way = link()
    wanted = there.publish(table_of(SIZE))
    assert copy.fetch(way.location, wanted).num_rows
    wait_until(copy.is_empty)
    wait_for_copy(way.location, wanted, copy.serve())
    sent = way.forwarded
    assert here.fetch(way.location, wanted).equals(table_of(SIZE))
    assert way.forwarded >= sent + SIZE


def test_who_asks_again_has_no_copy(there, copy):
    source, wanted = there.serve(), there.publish(table_of(SIZE))
    assert copy.fetch(source, wanted).num_rows
    wait_until(copy.is_empty)
    wait_for_copy(source, wanted, copy.serve())
    with seek(source, wanted, copy.serve()) as peer:
        assert peer.receive(messages.PLACE) == messages.At("")


def test_what_was_deleted_at_its_source_is_not_to_be_had(there, here, copy):
    source, wanted = there.serve(), there.publish(table_of(SIZE))
    kept = copy.fetch(source, wanted)
    there.connected().delete(wanted.object_id)
    with pytest.raises(ObjectLostError, match=wanted.object_id.hex()):
        here.fetch(source, wanted)
    wait_until(here.is_empty)
    wait_until(there.is_empty)
    assert kept.equals(table_of(SIZE))
    del kept
    wait_until(copy.is_empty)


def test_a_receiver_that_is_full_stops_no_other(here, there, copy, machine, link):
    way = link()
    small = machine(budget=8 * MIB)
    for each in (small, here):
        each.serve()
    wanted = there.publish(table_of(SIZE))
    fetching = [Fetching(each, way.location, wanted) for each in (small, copy, here)]
    full, *arrived = [each.result() for each in fetching]
    assert isinstance(full, StoreFullError)
    assert all(each.equals(table_of(SIZE)) for each in arrived)
    wait_until(small.is_empty)


# --- who lies, or says nothing ---


@pytest.mark.parametrize("behave", BEHAVIOURS, ids=lambda behave: behave.__name__)
@pytest.mark.parametrize("size", [SIZE, 40 * MIB], ids=["one connection", "several"])
def test_a_copy_that_lies_does_no_harm(there, here, liar, monkeypatch, behave, size):
    monkeypatch.setattr(channel, "SILENCE_SECONDS", 1)
    source, wanted = there.serve(), there.publish(table_of(size))
    lying = liar(behave)
    pretend(source, wanted, lying.location)
    landed = receiver_of(here).fetch(source, wanted.object_id, wanted.allocations)
    assert lying.asked > 0
    client = here.connected()
    hold = client.hold(landed.object_id)
    client.ensure_places(landed.places, hold)
    assert decoded(wanted, landed.places, hold).equals(table_of(size))
    assert place(source, wanted) == ""
    del landed, hold
    wait_until(here.is_empty)


def at_themselves(peer: Channel) -> None:
    for _ in range(1000):
        peer.send(messages.At("127.0.0.1:1"))
        peer.receive(messages.SOUGHT)


def at_nonsense(peer: Channel) -> None:
    for _ in range(1000):
        peer.send(messages.At("no such place"))
        peer.receive(messages.SOUGHT)


def silence(peer: Channel) -> None:
    threading.Event().wait(3)


def noise(peer: Channel) -> None:
    peer._socket.sendall(bytes(range(256)))


def something_else(peer: Channel) -> None:
    peer.send(messages.Sending(SIZE))


def none_at_all(peer: Channel) -> None:
    peer.send(messages.Refused("no"))


@pytest.mark.parametrize(
    "told",
    [at_themselves, at_nonsense, silence, noise, something_else, none_at_all],
    ids=lambda told: told.__name__,
)
def test_a_source_that_lies_about_copies_does_no_harm(here, liar, monkeypatch, told):
    monkeypatch.setattr(channel, "SILENCE_SECONDS", 1)
    lying = liar(refusal, told)
    with pytest.raises(ObjectLostError):
        receiver_of(here).fetch(lying.location, b"wanted", [(b"s" * 16, 0, SIZE)])
    wait_until(here.is_empty)


def test_who_says_nothing_any_more_keeps_nobody_waiting(there, here, sender, monkeypatch):
    """Two that were told to read at the source, and neither read nor hang up."""
    monkeypatch.setattr(channel, "SILENCE_SECONDS", 1)
    wanted = there.publish(table_of(SIZE))
    silent = [seek(sender.location, wanted) for _ in range(2)]
    for peer in silent:
        assert peer.receive(messages.PLACE) == messages.At("")
    assert here.fetch(sender.location, wanted).equals(table_of(SIZE))
    for peer in silent:
        peer.close()


def test_who_waits_is_told_so_and_has_the_next_turn(there, sender, monkeypatch):
    """A turn ends with its connection."""
    monkeypatch.setattr(tracker, "WORKING_SECONDS", 0.05)
    wanted = there.publish(table_of(SIZE))
    first, second = (seek(sender.location, wanted) for _ in range(2))
    for each in (first, second):
        assert each.receive(messages.PLACE) == messages.At("")
    third = seek(sender.location, wanted)
    for _ in range(3):
        assert third.receive(messages.PLACE) == messages.Working()
    first.close()
    while (answer := third.receive(messages.PLACE)) == messages.Working():
        pass
    assert answer == messages.At("")
    for each in (second, third):
        each.close()
    wait_until(lambda: not sender.tracker._objects)


@pytest.mark.parametrize("said", [messages.At(""), messages.Refused("no")])
def test_who_answers_with_something_else_is_hung_up_on(there, here, said):
    source, wanted = there.serve(), there.publish(table_of(SIZE))
    with seek(source, wanted) as peer:
        assert peer.receive(messages.PLACE) == messages.At("")
        peer.send(said)
        with pytest.raises(OSError, match=r"hung up|reset"):
            peer.receive(messages.PLACE)
    assert here.fetch(source, wanted).equals(table_of(SIZE))


def test_only_an_objects_own_allocations_are_sent_of_a_copy(there, copy):
    source, wanted = there.serve(), there.publish(table_of(SIZE))
    _, other = copy.land(source, there.publish(table_of(MIB))), copy.publish(table_of(MIB))
    places, hold = copy.land(source, wanted)
    ((segment, offset, size),) = wanted.allocations
    ((own_segment, own_offset),) = places
    with connect(copy.serve(), SECURITY) as peer:
        for piece in [
            (segment, offset, size, 0, size + 1),
            (segment, offset, size, size + 1, 0),
            (segment, offset + 64, size - 64, 0, size - 64),
            (own_segment, own_offset, size, 0, size),
            (*other.allocations[0], 0, MIB),
        ]:
            peer.send(messages.Read(wanted.object_id, [piece]))
            assert isinstance(peer.receive(messages.ANSWER), messages.Refused), piece
        peer.send(messages.Read(wanted.object_id, [(segment, offset, size, size, 0)]))
        assert peer.receive(messages.ANSWER) == messages.Sending(0)
    del hold


# --- what is kept ---


def test_nothing_is_kept_of_what_nobody_has_a_copy_of(there, sender):
    wanted = there.publish(table_of(8))
    with seek(sender.location, wanted) as peer:
        assert peer.receive(messages.PLACE) == messages.At("")
    with seek(sender.location, wanted, "a copy") as peer:
        assert peer.receive(messages.PLACE) == messages.At("")
        peer.send(messages.Tried(False))
    wait_until(lambda: not sender.tracker._objects)


def test_what_is_known_of_objects_that_are_gone_is_forgotten(there, sender):
    objects = [there.publish(table_of(8, n)) for n in range(300)]
    most = 0
    for wanted in objects:
        pretend(sender.location, wanted, "a copy")
        there.connected().delete(wanted.object_id)
        most = max(most, len(sender.tracker._objects))
    assert most <= tracker._FIRST_SWEEP


def test_copies_on_machines_that_have_left_are_forgotten(there, sender):
    wanted, other = there.publish(table_of(8)), there.publish(table_of(8, 1))
    pretend(sender.location, wanted, "has left")
    pretend(sender.location, other, "stays")
    sender.tracker.retain({"stays"})
    assert place(sender.location, wanted) == ""
    assert place(sender.location, other) == "stays"
    wait_until(lambda: list(sender.tracker._objects) == [other.object_id])


def amid(there, here, copy, link, size):
    """Have an object read from a copy, over a link that takes a part of it; return when it has.

    Returns (the fetch, the link, what keeps the copy).
    """
    wanted = there.publish(table_of(size))
    kept = copy.fetch(there.serve(), wanted)
    wait_for_copy(there.serve(), wanted, copy.serve())  # or it would be the latest
    way = link(copy.serve(), limit=5 * MIB)
    pretend(there.serve(), wanted, way.location)
    fetching = Fetching(here, there.serve(), wanted)
    wait_until(way.is_stuck)
    return fetching, way, kept
