"""What a client is given and cannot be: it says so, and the store hears nothing of it."""

import contextlib
import math
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.helpers.data import table
from tests.helpers.stores import Store
from zerrow_store import Client, StoreUnavailableError
from zerrow_store.client import connection
from zerrow_store.native import _native
from zerrow_store.protocol import framing, sockets

NO_IDS: list[Any] = ["my-table", 7, None, 1.5, bytearray(b"x"), [b"x"], b"", b"x" * 2000]
Calls = dict[str, Callable[[Client, Any], Any]]

WITH_AN_ID: Calls = {
    "get": lambda client, bad: client.get(bad),
    "hold": lambda client, bad: client.hold(bad),
    "begin_hold": lambda client, bad: client.begin_hold(bad),
    "allocations": lambda client, bad: client.allocations(bad),
    "publish": lambda client, bad: client.publish(bad, _native.encode(table(10)), b"m"),
    "delete several": lambda client, bad: client.delete([b"x", bad]),
    "spill_ahead": lambda client, bad: client.spill_ahead([bad]),
    "read_ahead": lambda client, bad: client.read_ahead([bad]),
}
WRONG: Calls = {
    "delete": lambda client, _: client.delete("abc"),  # type: ignore[arg-type]
    "delete a number": lambda client, _: client.delete(7),  # type: ignore[arg-type]
    "spill_ahead": lambda client, _: client.spill_ahead(b"abc"),  # type: ignore[arg-type]
    "put": lambda client, _: client.put("not data"),
    "message": lambda client, _: client.publish(
        b"x",
        _native.encode(table(10)),
        "m",  # type: ignore[arg-type]
    ),
    "segments": lambda client, _: client.ensure_segments([b"short"]),
    "sandbox": lambda client, _: client.count_sandbox({"calls": -1}),
    "rollback name": lambda client, _: client.record_rollback(b"x", 1, 1.0, 1.0),  # type: ignore[arg-type]
    "rollback nan": lambda client, _: client.record_rollback("x", 1, math.nan, 1.0),
    "rollback inf": lambda client, _: client.record_rollback("x", 1, 1.0, math.inf),
    "rollback negative": lambda client, _: client.record_rollback("x", -1, 1.0, 1.0),
    "cache_open": lambda client, _: client.decode_cache.open(b"t", "f", "/p", [], 1),  # type: ignore[arg-type]
    "cache_open none": lambda client, _: client.decode_cache.open(b"t", b"f", "/p", [], 0),
    "cache_fail": lambda client, _: client.decode_cache.fail(
        b"t", b"f", [(("v",), [0])], OSError()
    ),  # type: ignore[list-item]
    "cache_release": lambda client, _: client.decode_cache.release("t"),  # type: ignore[arg-type]
    "cache_drop": lambda client, _: client.cache_drop(7),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("call", WITH_AN_ID.values(), ids=WITH_AN_ID)
def test_ids_that_are_none(store: Store, call: Callable[[Client, Any], Any]) -> None:
    client = store.connected()
    for bad in NO_IDS:
        with pytest.raises((TypeError, ValueError)) as raised:
            call(client, bad)
        assert isinstance(raised.value, TypeError) or isinstance(bad, bytes)
    assert client.stats().pid == store.server_pid()


@pytest.mark.parametrize("bad", [each for each in NO_IDS if each is not None], ids=repr)
def test_a_put_under_what_is_no_id_pins_nothing(store: Store, bad: Any) -> None:
    client, data = store.connected(), table(10_000)
    before = _native.arena_stats()["pinned"]
    with pytest.raises((TypeError, ValueError), match="an object's id"):
        client.put(data, object_id=bad)
    assert _native.arena_stats()["pinned"] == before
    assert client.list() == []


@pytest.mark.parametrize("call", WRONG.values(), ids=WRONG)
def test_arguments_of_a_wrong_type(store: Store, call: Callable[[Client, Any], Any]) -> None:
    client = store.connected()
    with pytest.raises((TypeError, ValueError)):
        call(client, None)
    assert client.stats().pid == store.server_pid()


class Moody:
    """A store that greets, answers `stats`, and hangs up on everything else; counts connections."""

    def __init__(self, name: str) -> None:
        self._listener = sockets.listen(name)
        self.times: list[float] = []
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.times.append(time.monotonic())
            with connection, contextlib.suppress(OSError):  # it has hung up
                self._talk(connection)

    def _talk(self, connection: socket.socket) -> None:
        reader = framing.FrameReader()
        while True:
            frame = reader.read(connection)
            if frame.kind == "returned":
                continue
            if frame.kind != "hello":
                return
            body = [framing.PROTOCOL_VERSION, os.getpid(), b"epoch"]
            framing.send(connection, framing.pack("reply", frame.request_id, body))

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


@pytest.fixture
def moody(name: str) -> Iterator[Moody]:
    made = Moody(name)
    yield made
    made.close()


def test_a_request_at_which_the_store_hangs_up_twice_fails(moody: Moody, name: str) -> None:
    client = Client(name)
    for count in (1, 2):
        with pytest.raises(StoreUnavailableError, match="hung up twice"):
            client.get(b"poison")
        assert len(moody.times) <= 1 + 2 * count
    client.close()


def test_connecting_again_backs_off(moody: Moody, name: str) -> None:
    client = Client(name)
    for _ in range(3):
        with pytest.raises(StoreUnavailableError):
            client.get(b"poison")
    # The first time it is connected to again at once.
    pauses = [b - a for a, b in zip(moody.times[1:], moody.times[2:], strict=False)]
    assert all(pause >= connection._FIRST_PAUSE * 2**i for i, pause in enumerate(pauses, 1))
    client.close()
