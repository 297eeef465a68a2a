"""Events of the object table, and replies: whatever arrives is checked before it counts."""

import os
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from tests.helpers import requests
from tests.helpers.peers import memfd
from zerrow_store.errors import InternalError, ObjectNotFoundError, ProtocolError, StoreFullError
from zerrow_store.protocol import events, framing, messages
from zerrow_store.protocol.wire_errors import decode_error, describe
from zerrow_store.server.replica import Replica

SEGMENT, FILE = b"s" * 16, b"f" * 16
RANGES = (0).to_bytes(8, "little") + (64).to_bytes(8, "little")
ADDED = [
    b"one",
    [[SEGMENT, RANGES]],
    b"message",
    False,
    SEGMENT,
    [1, 2, 3],
    1.0,
    b"ref",
    b"",
    False,
]

WELL_FORMED: dict[str, list[Any]] = {
    "table_begun": [b"epoch", framing.PROTOCOL_VERSION],
    "reader_added": [b"reader", 7, 9],
    "segment_added": [SEGMENT, 1 << 20, 7, 9],
    "segment_shared": [SEGMENT],
    "object_added": ADDED,
    "objects_carried": [[b"one"], b"reference"],
    "column_added": [[b"two", *ADDED[1:]], b"file", "/path", ["v", "c"], [[0, 1]], 1.0, 0, 1.0],
    "columns_read": [[b"two"], 2.0],
    "copy_added": [b"three", [[SEGMENT, RANGES]], [[FILE, 0, SEGMENT, 0]], b"node", 1.0],
    "moves_known": [b"one", [[FILE, 0, SEGMENT, 0]]],
    "segment_on_disk": [SEGMENT, [[0, 64, 1 << 63]]],
    "allocations_spilled": [[b"one"], SEGMENT, {0: 64}, SEGMENT],
    "copy_removed": [b"three"],
    "object_hidden": [b"two"],
    "object_removed": [b"two"],
    "counted": [[1, 2, 3]],
    "reader_removed": [b"reader"],
    "segment_removed": [SEGMENT],
    "restored": [b"supervisor"],
    "following": [8],
    "stopping": [],
}
"""In an order in which they can be applied, one after the other."""


def frame(kind: str, body: Any, descriptors: list[int] | None = None) -> framing.Frame:
    """What arrives; by default with as many descriptors as that kind goes with."""
    if descriptors is None:
        descriptors = [memfd(4096) for _ in range(events.STREAM[kind].descriptors)]
    return framing.Frame(kind, 0, raw(body), descriptors)


def raw(body: Any) -> msgspec.Raw:
    return msgspec.Raw(msgspec.msgpack.encode(body))


def state(replica: Replica) -> Any:
    return [(event.kind, msgspec.to_builtins(event)) for event in replica.table.snapshot()]


@pytest.fixture
def replica() -> Iterator[Replica]:
    made = Replica()
    yield made
    made.close()


def test_all_kinds_are_here() -> None:
    assert WELL_FORMED.keys() == events.STREAM.keys()


def test_what_is_malformed_changes_nothing_and_what_is_well_formed_counts(replica) -> None:
    for kind, body in WELL_FORMED.items():
        before, known = state(replica), dict(replica.descriptors)
        refused = 0
        for wrong in (*requests.malformed(body), None, b""):
            if is_good(kind, wrong):  # after all, as None for a message
                continue
            came = frame(kind, wrong)
            with pytest.raises(ProtocolError):
                replica.receive(came)
            refused += 1
            assert len(came.descriptors) == events.STREAM[kind].descriptors  # still the frame's
            came.close()
        assert refused > 15
        assert (state(replica), replica.descriptors) == (before, known), kind
        came = frame(kind, body)
        mark = replica.receive(came)
        assert (mark is None) == (kind not in ("restored", "following", "stopping"))
        came.close()
    assert replica.descriptors == {}


def is_good(kind: str, body: Any) -> bool:
    try:
        msgspec.convert(body, events.STREAM[kind], builtin_types=(bytes,))
    except msgspec.ValidationError:
        return False
    return True


def replay(replica: Replica, until: str) -> None:
    for kind, body in WELL_FORMED.items():
        if kind == until:
            return
        replica.receive(frame(kind, body))


@pytest.mark.parametrize("count", [0, 2])
def test_a_segment_comes_with_its_descriptor(replica: Replica, count: int) -> None:
    came = frame("segment_added", WELL_FORMED["segment_added"], [memfd(4096) for _ in range(count)])
    with pytest.raises(ProtocolError, match="needs 1 descriptors"):
        replica.receive(came)
    assert not replica.table.segments
    came.close()


def test_the_object_table_of_another_version_is_not_taken_over(replica: Replica) -> None:
    with pytest.raises(ProtocolError, match="the object table has protocol version 1000"):
        replica.receive(frame("table_begun", [b"epoch", 1000], []))
    assert replica.table.epoch == b""


def test_a_snapshot_is_complete(replica: Replica) -> None:
    replay(replica, until="object_hidden")
    other = Replica()
    for event, descriptors in replica.snapshot():
        other.receive(frame(event.kind, event, [os.dup(fd) for fd in descriptors]))
    assert state(other) == state(replica)
    assert other.descriptors.keys() == replica.descriptors.keys()
    other.close()


REPLIES: dict[str, Any] = {
    "hello": [8, 1, b"epoch"],
    "attach": b"",
    "put": True,
    "get": [b"message", [[SEGMENT, RANGES]], [[SEGMENT, 0, FILE, 64]], b""],
    "hold": [[SEGMENT, 0, FILE, 64]],
    "segments": [[1 << 20, [[0, 64, 1 << 63]]]],
    "watch": [b"one"],
    "elsewhere": {b"node": [b"one"]},
    "cache_open": [
        [[0, b"two", b"message", [[0, 1]], [0], [[SEGMENT, 0, FILE, 64]]]],
        [[0, [1]]],
        [[0, [2], 7]],
    ],
    "cache_publish": [True],
    "cache_drop": 1,
    "delete": None,
}


@pytest.mark.parametrize("kind", REPLIES)
def test_a_reply_that_is_malformed_is_an_error(kind: str) -> None:
    request = messages.decode(kind, raw(requests.WELL_FORMED[kind]))
    good = REPLIES[kind]
    decoded = messages.decode_reply(request, raw(good))
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(decoded)) == good
    wrong = [{"no": 1.5}, 1.5, "text", [*good, None] if isinstance(good, list) else [None]]
    for each in wrong:
        with pytest.raises(ProtocolError, match="malformed reply"):
            messages.decode_reply(request, raw(each))


@pytest.mark.parametrize(
    "error",
    [StoreFullError(needed=3, used=2, budget=1), ObjectNotFoundError(b"id"), InternalError("x")],
)
def test_an_error_arrives_as_it_was_raised(error: Any) -> None:
    arrived = decode_error(raw(describe(error)))
    assert (type(arrived), str(arrived)) == (type(error), str(error))


@pytest.mark.parametrize(
    "body", [None, ["NoSuchError", []], ["StoreFullError", [1]], ["os", []], 7]
)
def test_an_error_that_is_malformed_is_one_of_the_protocol(body: Any) -> None:
    assert isinstance(decode_error(raw(body)), ProtocolError)
