"""What handlers want done, and in which order; and that it is done after they have returned."""

import fcntl
import os
import selectors
import socket
import struct
from collections import Counter
from typing import Any

import msgspec
import pytest

from tests.helpers.peers import memfd
from zerrow_store.errors import (
    NoOwnerError,
    ObjectExistsError,
    ObjectLostError,
    ProtocolError,
)
from zerrow_store.protocol import events, framing, notices
from zerrow_store.protocol.places import NO_PROCESS
from zerrow_store.server import effects
from zerrow_store.server.connection import Call, Connection
from zerrow_store.server.server import Server

SEGMENT, SEALED = b"s" * 16, b"z" * 16
SIZE = 1 << 20
PAGE = 4096


class Peer:
    """A process as handlers see its connection: there is no socket."""

    def __init__(self) -> None:
        self.pid, self.uid = os.getpid(), os.getuid()
        self.greeted, self.closed, self.role = True, False, "client"
        self.identity = self.owner_id = b""
        self.segment: bytes | None = None
        self.holds: Counter[bytes] = Counter()
        self.last_claimer = None


def packed(*pages: int) -> bytes:
    return b"".join(struct.pack("<2Q", page * PAGE, PAGE) for page in pages)


def ask(server: Server, peer: Any, kind: str, *body: Any, fds: tuple[int, ...] = ()) -> list[Any]:
    """Have a request carried out; returns its effects."""
    raw = msgspec.Raw(msgspec.msgpack.encode(body))
    server._dispatcher.dispatch(peer, framing.Frame(kind, 1, raw, list(fds)))
    return server._core.effects.take()


def put(server: Server, peer: Any, object_id: bytes, own: bytes, **changed: Any) -> list[Any]:
    body = {"foreign": [], "message": None, "transient": False, "owned": False, **changed}
    rest = (*list(body.values())[:4], [0, 0, 0], *list(body.values())[4:])
    return ask(server, peer, "put", object_id, own, *rest)


@pytest.fixture
def producer(server: Server) -> Any:
    """A process that has attached its segment."""
    peer = Peer()
    (replicated, reply) = ask(server, peer, "attach", SEGMENT, SIZE, fds=(memfd(SIZE),))
    assert isinstance(replicated.event, events.SegmentAdded)
    assert reply.body == b""
    return peer


def kinds(collected: list[Any]) -> list[str]:
    return [
        each.event.kind
        if isinstance(each, effects.Replicate)
        else each.notice.kind
        if isinstance(each, effects.Notify | effects.NotifyAll)
        else type(each).__name__
        for each in collected
    ]


def test_a_change_is_replicated_before_it_is_answered_and_before_anybody_is_told(
    server: Server, producer: Any
) -> None:
    assert kinds(put(server, producer, b"one", packed(0, 1))) == ["object_added", "Reply"]
    told = ask(server, Peer(), "delete", [b"one"], False)
    assert kinds(told) == ["object_removed", "freed", "Reply"]
    assert (told[1].connection, told[1].notice) == (
        producer,
        notices.Freed(struct.pack("<2Q", 0, PAGE)),
    )


def test_memory_is_given_back_after_that_was_replicated(server: Server, producer: Any) -> None:
    """A supervisor that still refers to it would start a server that hands out zeros."""
    put(server, producer, b"one", packed(0))
    put(server, producer, b"two", packed(1))
    fd = server._core.state.descriptors[SEGMENT]
    os.pwrite(fd, b"x" * 2 * PAGE, 0)
    server._core.processes.ended(SEGMENT)
    server._delivery.carry_out(server._core.effects.take())
    assert os.pread(fd, 2 * PAGE, 0) == b"x" * 2 * PAGE
    server._core.lifetimes.delete(b"one")
    assert os.pread(fd, PAGE, 0) == b"x" * PAGE, "it was punched before it was replicated"
    collected = server._core.effects.take()
    assert kinds(collected)[:2] == ["object_removed", "Punch"]
    server._delivery.carry_out(collected)
    assert os.pread(fd, 2 * PAGE, 0) == bytes(PAGE) + b"x" * PAGE


def test_what_a_process_sent_before_its_end_is_not_entered_after_it(
    server: Server, producer: Any
) -> None:
    """What it publishes then was punched, as no object referred to it yet."""
    put(server, producer, b"one", packed(0))
    server._core.processes.ended(SEGMENT)
    server._core.effects.take()
    late = put(server, producer, b"two", packed(1))
    assert kinds(late) == ["Refuse"]
    assert isinstance(late[0].error, ObjectLostError)
    column = [("v", "c"), [(0, 1)], 1.0, b"three", packed(1), [], b"message", [0, 0, 0]]
    late = ask(server, producer, "cache_publish", b"token", b"file", "/path", [column])
    assert kinds(late) == ["Refuse"]
    assert isinstance(late[0].error, ObjectLostError)
    assert list(server._core.state.table.objects) == [b"one"]


def test_a_descriptor_is_open_until_all_that_it_goes_with_was_sent(
    server: Server, producer: Any
) -> None:
    """A sealed segment comes with a put that is refused: there and gone in one request."""
    put(server, producer, b"one", packed(0))
    sealed = memfd(SIZE)
    fcntl.fcntl(sealed, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)
    body = [b"two", b"", [(b"n" * 16, packed(0))], None, False, False, [0, 0, 0], [(SEALED, SIZE)]]
    collected = ask(server, producer, "put", *body, fds=(sealed,))
    assert kinds(collected) == [
        "segment_added",
        "segment_removed",
        "Close",
        "segment_gone",
        "Refuse",
    ]
    (fd,) = collected[0].descriptors
    assert os.fstat(fd).st_size == SIZE
    assert collected[2].descriptor == fd
    assert collected[0].event == events.SegmentAdded(SEALED, SIZE, NO_PROCESS, 0)
    server._delivery.carry_out(collected[:3])
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


def test_a_put_that_waited_is_answered_by_an_effect(server: Server, producer: Any) -> None:
    owner = [b"reference", b"owner", b"", b""]
    for object_id in b"one", b"two":
        asked = put(server, producer, object_id, packed(0), sealed=[], carrier=owner)
        assert kinds(asked) == ["Refuse"]  # there is no such owner, nor an agent that would ask
        assert isinstance(asked[0].error, NoOwnerError)
    claimer = Peer()
    ask(server, claimer, "attach", b"c" * 16, SIZE, False, b"claimer", fds=(memfd(SIZE),))
    unknown = [b"reference", b"", b"", b""]
    (question,) = put(server, producer, b"three", packed(0), sealed=[], carrier=unknown)
    assert (question.connection, question.notice) == (
        claimer,
        notices.Whose(b"three", b"reference"),
    )
    claimed = ask(server, claimer, "claim", b"three", True)
    assert kinds(claimed) == ["object_added", "Reply", "Reply"]
    assert claimed[1].call.connection is producer
    assert server._core.state.table.objects[b"three"].owner == b"c" * 16


def test_what_a_handler_raises_is_an_effect(server: Server, producer: Any) -> None:
    put(server, producer, b"one", packed(0))
    for wrong, error in [
        (put(server, producer, b"one", packed(1)), ObjectExistsError),
        (ask(server, producer, "release", [b"one"]), ProtocolError),
        (ask(server, producer, "nonsense"), ProtocolError),
        (ask(server, producer, "get", 7), ProtocolError),
    ]:
        assert kinds(wrong) == ["Refuse"]
        assert isinstance(wrong[0].error, error)


def test_a_waiting_read_is_answered_when_the_decoder_goes(server: Server) -> None:
    wanted = [(("v", "c"), [0])]
    decoder, reader = Peer(), Peer()
    (granted,) = ask(server, decoder, "cache_open", b"t1", b"file", "/path", wanted, 1)
    assert granted.body.granted == [(0, [0])]
    assert ask(server, reader, "cache_open", b"t2", b"file", "/path", wanted, 1) == []
    server._core.cache.dropped(decoder)  # type: ignore[arg-type]
    (answer,) = server._core.effects.take()
    assert answer.call.connection is reader
    assert answer.body.granted == [(0, [0])]


# --- with sockets ---


def connect(server: Server) -> tuple[Connection, socket.socket]:
    ours, theirs = socket.socketpair()
    connection = server._connected(theirs)
    connection.greeted, connection.role, connection.segment = True, "client", SEGMENT
    server._core.state.attached[SEGMENT].add(connection)
    return connection, ours


def read(sock: socket.socket) -> list[tuple[str, msgspec.Raw]]:
    """What has been sent until now."""
    sock.setblocking(False)
    reader, found = framing.FrameReader(), []
    try:
        while reader.feed(sock):
            pass
    except BlockingIOError:
        pass
    while frame := reader.next():
        found.append((frame.kind, frame.raw))
    return found


# Long because all that a peer may be told is told at once.
def test_a_peer_that_fails_while_it_is_told_is_dropped_after_that_and_nothing_is_told_twice(
    server: Server, producer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its end lets objects go, of which the same peers are told: itself, too, which has failed."""
    server._core.state.attached[SEGMENT].clear()
    full, its_end = connect(server)
    other, others_end = connect(server)
    for page, object_id in enumerate([b"a", b"b", b"c"]):
        put(server, producer, object_id, packed(page))
    producer.segment = SEGMENT
    for page, object_id in enumerate([b"held", b"also"], start=3):
        put(server, producer, object_id, packed(page))
        server._core.lifetimes.take_hold(full, object_id)
        server._core.lifetimes.delete(object_id)
    server._core.effects.take()
    full.send_buffer.limit = -1  # it is full at once

    steps: list[str] = []
    drop, dispatch = server._drop, server._dispatcher.dispatch

    def note_drop(connection: Connection) -> None:
        steps.append("drop")
        drop(connection)

    def note_dispatch(*arguments: Any) -> None:
        dispatch(*arguments)
        steps.append("returned")

    monkeypatch.setattr(server, "_drop", note_drop)
    monkeypatch.setattr(server._dispatcher, "dispatch", note_dispatch)
    framing.send(others_end, framing.pack("delete", 1, [[b"a", b"b", b"c"], False]))
    framing.send(others_end, framing.pack("list", 2, []))
    server._serve(other, selectors.EVENT_READ)
    assert not full.closed, "it was dropped amid the requests of another one"
    server._carry_out()
    assert steps == ["returned", "returned", "drop"]
    assert full.closed
    assert other in server._core.state.attached[SEGMENT]
    told = read(others_end)
    freed = [
        struct.unpack("<Q", notices.decode(k, raw).offsets)[0] for k, raw in told if k == "freed"
    ]
    assert sorted(freed) == [page * PAGE for page in range(5)]
    assert Counter(kind for kind, _ in told)["reply"] == 2
    assert read(its_end) == []
    assert server._core.effects.take() == []
    its_end.close()
    others_end.close()


def test_nothing_is_written_to_a_connection_that_has_failed_or_is_closed(server: Server) -> None:
    connection, ours = connect(server)
    connection.greeted = False
    call = Call(connection, "get", 1, [])
    server._core.effects.notify(connection, notices.SegmentGone(SEGMENT))
    server._deliver()
    server._connections.fail(connection, ProtocolError("it is to go"))
    server._core.effects.notify(connection, notices.SegmentGone(SEGMENT))
    server._core.effects.reply(call, None)
    server._carry_out()
    assert connection.closed
    server._core.effects.notify(connection, notices.SegmentGone(SEGMENT))
    server._core.effects.refuse(call, ProtocolError("too late"))
    server._core.effects.reply(call, None, [null := os.open(os.devnull, os.O_RDONLY)])
    server._carry_out()
    assert [kind for kind, _ in read(ours)] == ["segment_gone"]
    with pytest.raises(OSError, match="Bad file descriptor"):  # it belonged to the reply
        os.fstat(null)
    ours.close()


def test_a_connection_that_fails_again_while_another_one_is_dropped_is_dropped_once(
    server: Server,
) -> None:
    pairs = [connect(server) for _ in range(3)]
    for connection, _ in pairs:
        server._connections.fail(connection, ProtocolError("it is to go"))
    ended = server._core.cache.dropped

    def drop_all(connection: Connection) -> None:
        ended(connection)
        for each, _ in pairs:
            server._connections.fail(each, ProtocolError("once more"))

    server._core.cache.dropped = drop_all  # type: ignore[method-assign]
    server._carry_out()
    assert all(connection.closed for connection, _ in pairs)
    assert SEGMENT not in server._core.state.attached
    for _, ours in pairs:
        ours.close()
