"""Interrupts at every step: control-C, and Ray's cancellation, raise wherever a thread just is.

What was asked of the store is done or not, and either way nothing is lost or left, nobody hangs,
and memory that an object refers to is not given to somebody else.
"""

import contextlib
import gc
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pytest

from tests.helpers.interrupts import steps
from tests.helpers.waiting import eventually
from zerrow_store.client.client import Client
from zerrow_store.errors import ObjectExistsError
from zerrow_store.native import _native


def fresh(value: int) -> pa.Table:
    return pa.table({"x": np.full(100_000, value)})


def put(client: Client, table: pa.Table) -> None:
    client.put(table)


def put_under_a_name(client: Client, table: pa.Table) -> None:
    client.put(table, object_id=b"name")


def publish_transient(client: Client, table: pa.Table) -> None:
    client.publish_transient(b"transient", _native.encode(table))


@pytest.mark.parametrize("operation", [put, put_under_a_name, publish_transient])
def test_what_was_put_stays_as_it_was(
    client: Client, operation: Callable[[Client, pa.Table], None]
) -> None:
    """Also what is put again after an interrupted put of the same memory."""
    for number, interrupt in enumerate(steps("client")):
        table = fresh(number)
        with interrupt:
            operation(client, table)
        kept = client.put(table)
        others = [each.object_id for each in client.list() if each.object_id != kept]
        client.delete(others, missing_ok=True)
        del table
        gc.collect()
        written_since = [fresh(-1) for _ in range(3)]
        assert client.get(kept)["x"].unique().to_pylist() == [number]
        client.delete(kept)
        del written_since
        eventually(
            lambda: client.stats().objects == 0, "nothing is left of an interrupted put", seconds=20
        )


def test_an_object_whose_id_was_taken_stays(client: Client) -> None:
    """A put that fails undoes nothing, wherever it is interrupted: the object is another one's."""
    client.put(fresh(7), object_id=b"name")
    for interrupt in steps("client"):
        with contextlib.suppress(ObjectExistsError), interrupt:
            put_under_a_name(client, fresh(8))
        assert client.get(b"name")["x"].unique().to_pylist() == [7]


def get(client: Client, object_id: bytes) -> None:
    client.get(object_id)


def hold(client: Client, object_id: bytes) -> None:
    client.hold(object_id)


def hold_and_confirm(client: Client, object_id: bytes) -> None:
    holding = client.begin_hold(object_id)
    holding.confirm()


@pytest.mark.parametrize("operation", [get, hold, hold_and_confirm])
def test_no_hold_is_left(client: Client, operation: Callable[[Client, bytes], None]) -> None:
    object_id = client.put(fresh(7))
    for interrupt in steps("client"):
        with interrupt:
            operation(client, object_id)
        gc.collect()
        eventually(
            lambda: client.list()[0].holds == 0,
            "no hold is left of an interrupted request",
            seconds=20,
        )
    assert client.get(object_id)["x"].unique().to_pylist() == [7]


def test_a_deletion_is_done_or_not(client: Client) -> None:
    for interrupt in steps("client"):
        object_id = client.put(fresh(7))
        with interrupt:
            client.delete(object_id)
        client.delete(object_id, missing_ok=True)
        assert client.stats().objects == 0
