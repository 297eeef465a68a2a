"""Objects whose owners are processes of another machine: found, followed, and let go of.

The agents' parts for it run in this process; the stores, producers and owners are others.
"""

import socket
import threading
import time

import pytest

from tests.helpers.links import Link
from tests.helpers.machines import SECURITY, Node, know
from tests.helpers.processes import kill
from tests.helpers.waiting import wait_until
from zerrow_store.client.connection import Connection
from zerrow_store.client.requests import Request
from zerrow_store.errors import ProtocolError
from zerrow_store.protocol.messages import Put
from zerrow_store.transfer import channel, messages
from zerrow_store.transfer import neighbour as neighbour_module
from zerrow_store.transfer.channel import connect


@pytest.fixture
def far():
    """Where objects are."""
    made = Node().begin()
    yield made
    made.neighbours.update({})
    made.stop()


@pytest.fixture
def near():
    """Where their owners are."""
    made = Node().begin()
    yield made
    made.stop()


@pytest.fixture
def anna(near):
    return near.owner(b"anna")


@pytest.mark.parametrize("known", [b"", b"anna"], ids=["claimed", "known"])
def test_an_object_goes_when_its_owner_elsewhere_lets_go_of_it(far, near, anna, known):
    know(far, near)
    producer = far.producer()
    assert producer.do(f"publish(b'object', b'anna 1', {known!r})")
    producer.kill()
    assert far.count() == 1
    assert near.has_proxies()
    assert near.count() == 0
    if known:
        wait_until(lambda: anna.do("owner.stored") == [(b"object", b"anna 1")])
    anna.do("owning.delete(b'object')")
    wait_until(lambda: far.count() == 0)


def test_an_object_goes_with_the_end_of_its_owner_elsewhere(far, near, anna):
    know(far, near)
    assert far.producer().do("publish(b'object', b'anna 1')")
    anna.kill()
    wait_until(lambda: far.count() == 0)


def test_what_nobody_owns_anywhere_is_refused(far, near, anna):
    know(far, near)
    producer = far.producer()
    for known in (b"", b"cleo"):
        assert not producer.do(f"publish(b'object', b'cleo 1', {known!r})")
    assert far.count() == 0
    assert not near.has_proxies()


def test_owners_here_are_asked_first_and_nodes_do_not_ask_each_other_in_a_circle(far, near, anna):
    know(far, near)
    know(near, far)
    bert = far.owner(b"bert")
    producer = far.producer()
    assert producer.do("publish(b'object', b'bert 1')")
    assert anna.do("owner.asked") == []
    assert not producer.do("publish(b'other', b'cleo 1')")
    assert len(bert.do("owner.asked")) == 2
    assert len(anna.do("owner.asked")) == 1


def test_who_claimed_the_last_one_is_asked_first(far, near, anna):
    third = Node().begin()
    try:
        carl = third.owner(b"carl")
        know(far, near, third)
        producer = far.producer()
        for i in range(5):
            assert producer.do(f"publish(b'{i}', b'carl {i}')")
        assert len(anna.do("owner.asked")) <= 1
        assert len(carl.do("owner.asked")) == 5
    finally:
        third.stop()


def test_what_is_let_go_of_while_the_link_is_down_goes_when_it_is_up(far, near, anna):
    way = Link(near.location)
    know(far, near=way.location)
    producer = far.producer()
    for i in range(3):
        assert producer.do(f"publish(b'{i}', b'anna {i}')")
    way.close()
    anna.do("owning.delete([b'0', b'2'])")
    time.sleep(0.3)
    assert far.count() == 3
    know(far, near=near.location)
    wait_until(lambda: [info.object_id for info in far.connected().list()] == [b"1"])
    anna.do("owning.delete(b'1')")
    wait_until(lambda: far.count() == 0)


def test_what_belongs_to_a_machine_that_has_left_goes(far, near, anna):
    know(far, near)
    assert far.producer().do("publish(b'object', b'anna 1')")
    know(far)
    wait_until(lambda: far.count() == 0)


def test_an_agent_that_is_started_again_takes_up_what_there_is(far, near, anna):
    know(far, near)
    producer = far.producer()
    for i in range(3):
        assert producer.do(f"publish(b'{i}', b'anna {i}')")
    far.leave()
    anna.do("owning.delete(b'0')")
    far.begin()
    know(far, near)
    far.neighbours.take_up()
    wait_until(lambda: far.count() == 2)
    anna.do("owning.delete([b'1', b'2'])")
    wait_until(lambda: far.count() == 0)


def test_what_belongs_to_a_machine_that_left_while_no_agent_was_there_goes(far, near, anna):
    know(far, near)
    assert far.producer().do("publish(b'object', b'anna 1')")
    far.leave()
    far.begin()
    know(far)
    far.neighbours.take_up()
    assert far.count() == 0


@pytest.mark.parametrize("whose", ["near", "far"])
def test_a_store_that_is_started_again_forgets_nothing(far, near, anna, whose):
    know(far, near)
    producer = far.producer()
    for i in range(3):
        assert producer.do(f"publish(b'{i}', b'anna {i}')")
    kill({"near": near, "far": far}[whose].server_pid())
    anna.do("owning.delete(b'0')")
    wait_until(lambda: far.count() == 2)
    assert producer.do("publish(b'3', b'anna 3')")
    anna.do("owning.delete([b'1', b'2', b'3'])")
    wait_until(lambda: far.count() == 0)


# --- machines that lie ---


class Liar:
    """A machine that knows the secret, and behaves as it likes."""

    def __init__(self, behave) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.location = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._behave = behave
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        acceptor = channel.Acceptor(SECURITY)
        while True:
            try:
                sock = acceptor.wrap(self._listener.accept()[0])
            except OSError:
                return
            with sock:
                try:
                    peer = acceptor.greet(sock)
                    assert isinstance(peer.receive(messages.REQUEST), messages.Follow)
                    self._behave(peer, peer.receive(messages.FOLLOWED))
                    while True:
                        peer.receive(messages.FOLLOWED)
                except (OSError, ProtocolError):
                    pass

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()


def claims_another(peer, asked):
    peer.send(messages.Owned(b"mine", True))


def lets_go_of_what_is_not_its_own(peer, asked):
    peer.send(messages.LetGo([b"mine"]))
    peer.send(messages.Owned(asked.object_id, False))


def answers_twice(peer, asked):
    peer.send(messages.Owned(asked.object_id, False))
    peer.send(messages.Owned(asked.object_id, True))


def says_garbage(peer, asked):
    peer.send(messages.Sent(b"garbage"))


def hangs_up(peer, asked):
    peer.cut()


LIES = [claims_another, lets_go_of_what_is_not_its_own, answers_twice, says_garbage, hangs_up]


@pytest.mark.parametrize("behave", LIES, ids=lambda behave: behave.__name__)
def test_a_machine_that_lies_costs_nobody_anything(far, near, anna, behave):
    liar = Liar(behave)
    try:
        know(far, near)
        producer = far.producer()
        assert producer.do("publish(b'mine', b'anna 1')")
        know(far, near, liar=liar.location)
        assert not producer.do("publish(b'object', b'cleo 1')")
        assert producer.do("publish(b'other', b'anna 2')")
        time.sleep(0.2)
        assert far.count() == 2
        anna.do("owning.delete([b'mine', b'other'])")
        wait_until(lambda: far.count() == 0)
    finally:
        know(far, near)
        liar.close()


def test_a_machine_that_is_silent_delays_but_keeps_nothing(far, near, anna):
    liar = Liar(lambda peer, asked: None)
    try:
        know(far, near, liar=liar.location)
        producer = far.producer()
        assert producer.do("publish(b'object', b'anna 1')")
        assert not producer.do("publish(b'another', b'cleo 1')")
        assert far.count() == 1
    finally:
        know(far, near)
        liar.close()


def test_who_follows_learns_only_of_what_it_has_named(near, anna):
    with connect(near.location, SECURITY) as peer:
        peer.send(messages.Follow([b"unknown"]))
        assert peer.receive(messages.OWNED) == messages.LetGo([b"unknown"])


def test_a_connection_that_nothing_is_followed_on_ends(far, near, anna, monkeypatch):
    monkeypatch.setattr(neighbour_module, "_UNUSED_SECONDS", 0.0)
    know(far, near)
    producer = far.producer()
    assert producer.do("publish(b'object', b'anna 1')")
    (neighbour,) = far.neighbours._neighbours.values()
    anna.do("owning.delete(b'object')")
    wait_until(lambda: not neighbour._runs)
    assert producer.do("publish(b'another', b'anna 2')")
    anna.do("owning.delete(b'another')")
    wait_until(lambda: far.count() == 0)


def test_a_proxy_that_is_entered_twice_around_a_crash_counts_once(far, near, anna, monkeypatch):
    """The store ended after it was entered, and was asked again."""
    send = Connection.send

    def sent_again(self, request):
        if isinstance(request.message, Put):
            self.wait(send(self, Request(request.message)))
            request.resent = True
        return send(self, request)

    monkeypatch.setattr(Connection, "send", sent_again)
    know(far, near)
    assert far.producer().do("publish(b'object', b'anna 1')")
    assert near.has_proxies()
    anna.do("owning.delete(b'object')")
    wait_until(lambda: far.count() == 0)
