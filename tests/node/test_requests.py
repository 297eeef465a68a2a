"""Every kind of request, well formed and malformed: an answer, and nobody else is harmed."""

import itertools
import logging
import os
import random
import selectors
import socket
from typing import Any

import pytest

from tests.helpers.data import table
from tests.helpers.peers import SEGMENT, Peer, memfd, unharmed
from tests.helpers.processes import descriptors
from tests.helpers.requests import COLUMN, WELL_FORMED, malformed
from tests.helpers.stores import Store
from tests.helpers.waiting import wait_until
from zerrow_store.errors import InternalError
from zerrow_store.protocol import framing, messages, notices
from zerrow_store.protocol.wire_errors import decode_error
from zerrow_store.server.connection import Connection
from zerrow_store.server.server import Server


def answers(peer: Peer, kind: str, body: Any, fds: tuple[int, ...] = ()) -> list[Any]:
    """What is answered to a request until a later one is answered."""
    framing.send(peer.socket, framing.pack(kind, 1, body, len(fds)), fds)
    framing.send(peer.socket, framing.pack("cache_list", 2, []))
    found = []
    while (answer := peer.answer())[1] != 2:  # type: ignore[index]
        if answer[1] == 1:  # not an event
            found.append(answer)
    return found


def test_all_kinds_are_here() -> None:
    assert WELL_FORMED.keys() == messages.REQUESTS.keys()


@pytest.mark.parametrize("kind", WELL_FORMED)
def test_a_malformed_request_of_each_kind(store: Store, kind: str) -> None:
    """As a request it is answered, as a notice it is not; the connection and all others go on."""
    with unharmed(store):
        peer = Peer(store.name)
        fd = memfd(1 << 20)
        assert peer.ask("attach", [SEGMENT, 1 << 20], [fd])[0] == "reply"
        os.close(fd)
        for body in malformed(WELL_FORMED[kind]):
            if kind == "shutdown" and body == []:
                continue
            assert len(answers(peer, kind, body)) <= 1, body
            framing.send(peer.socket, framing.pack(kind, 0, body))
        assert answers(peer, "stats", [])[0][0] == "reply"
        peer.close()


def test_requests_of_all_kinds_in_any_order(store: Store) -> None:
    """Well formed and not, from several peers that come and go, with and without descriptors."""
    seed = random.randrange(1 << 32)
    rng = random.Random(seed)
    fds = [memfd(1 << 20), os.open(os.devnull, os.O_RDONLY)]
    client = store.connected()
    client.delete(client.put(table(10)))  # its segment is attached
    wait_until(store.is_complete)
    before = descriptors(store.server_pid())
    bodies = {kind: [body, *malformed(body)] for kind, body in WELL_FORMED.items()}
    with unharmed(store):
        for _ in range(20):
            peers = [Peer(store.name) for _ in range(3)]
            for _ in range(60):
                kind = rng.choice([each for each in WELL_FORMED if each != "shutdown"])
                some = bodies[kind][:1] if rng.random() < 0.5 else bodies[kind]
                given = tuple(rng.choices(fds, k=rng.randrange(3)))
                answers(rng.choice(peers), kind, rng.choice(some), given)
            for peer in peers:
                peer.close()
        for figures in (client.stats, client.memory, client.memory_by_segment, client.evictions):
            assert figures() is not None, f"seed {seed}"
        client.cache_drop()
        client.delete([i.object_id for i in client.list() if i.nbytes == 0], missing_ok=True)
    for fd in fds:
        os.close(fd)
    # One segment stays as long as this process lives: its descriptor, and its process's.
    wait_until(lambda: descriptors(store.server_pid()) - before in (0, 2))


def test_descriptors_of_a_refused_request_are_not_the_next_ones(store: Store) -> None:
    client = store.connected()
    client.stats()
    wait_until(store.is_complete)
    before = descriptors(store.server_pid())
    peer = Peer(store.name)
    right, wrong = memfd(1 << 20), memfd(1 << 21)
    for kind, body in itertools.product(WELL_FORMED, ([None], None)):
        assert peer.ask(kind, body, [wrong])[0] == "error"
    assert peer.ask("attach", [SEGMENT, 1 << 20], [right])[0] == "reply"
    assert client.stats().segments == 1
    peer.close()
    os.close(right)
    os.close(wrong)
    # The segment stays as long as this process lives: its descriptor, and its process's.
    wait_until(lambda: descriptors(store.server_pid()) == before + 2)


def test_what_is_refused_in_part_has_changed_nothing(store: Store) -> None:
    client = store.connected()
    peer = Peer(store.name)
    assert peer.ask("put", [b"one", b"", [], b"m", False, False, [0, 0, 0]])[0] == "reply"
    assert peer.ask("hold", [b"one"])[0] == "reply"
    assert peer.ask("release", [[b"one", b"one"]])[0] == "error"
    assert peer.ask("delete", [[b"one", b"two"], False])[0] == "error"
    assert [(info.object_id, info.holds) for info in client.list()] == [(b"one", 1)]
    columns = [COLUMN, [*COLUMN[:3], b"second", bytes(16), *COLUMN[5:]]]
    assert peer.ask("cache_publish", [b"t", b"f", "/p", columns])[0] == "error"
    assert client.cache_list() == []
    peer.close()


def test_a_named_object_has_a_message(store: Store) -> None:
    """Else who asks for it by its name would be told that there is one, again and again."""
    peer = Peer(store.name)
    unreadable = [b"one", b"", [], None, False, False, [0, 0, 0], [], None, "name"]
    assert peer.ask("put", unreadable)[0] == "error"
    assert store.connected().list() == []
    peer.close()


# --- in the server itself ---


def test_whatever_a_handler_raises_is_an_answer(
    server: Server, connected: tuple[Connection, socket.socket], caplog: pytest.LogCaptureFixture
) -> None:
    connection, ours = connected

    def fail(*_: Any) -> Any:
        raise LookupError("unforeseen")

    server._dispatcher._handlers[messages.Memory] = fail
    for request_id in (7, 0):  # also of a notice, which has no answer
        framing.send(ours, framing.pack("memory", request_id, []))
    with caplog.at_level(logging.INFO):
        server._serve(connection, selectors.EVENT_READ)
    logged = [record for record in caplog.records if record.exc_info]
    assert len(logged) == 2
    assert "LookupError: unforeseen" in str(logging.Formatter().format(logged[0]))
    answer = framing.FrameReader().read(ours)
    assert (answer.kind, answer.request_id) == ("error", 7)
    assert isinstance(decode_error(answer.raw), InternalError)
    ours.setblocking(False)
    with pytest.raises(BlockingIOError):
        ours.recv(1)
    assert not connection.closed


@pytest.mark.parametrize("events", [selectors.EVENT_READ, selectors.EVENT_WRITE, 3])
def test_a_connection_that_was_closed_in_the_same_round_is_left_alone(
    server: Server, connected: tuple[Connection, socket.socket], events: int
) -> None:
    connection, _ = connected
    key = server._selector.get_key(connection.socket)
    server._drop(connection)
    key.data(key.fileobj, events)
    server._core.effects.notify(connection, notices.Freed(b""))
    server._carry_out()
