"""Objects arrive as they are, once, and go when nobody reads them any more."""

import os
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from tests.helpers.data import MIB, table_of
from tests.helpers.processes import descriptors, spilled_files
from tests.helpers.waiting import wait_until
from zerrow_store.errors import ObjectLostError, StoreFullError
from zerrow_store.transfer.reading import split


def chunked(chunks):
    arrays = [pc.add(pa.array(range(n % 700), pa.int64()), n) for n in range(chunks)]
    return pa.table({"x": pa.chunked_array(arrays)})


TABLES = {
    "empty": lambda: pa.table({"x": pa.array([], pa.int64())}),
    "no columns": lambda: pa.table({}),
    "one row": lambda: pa.table({"x": [1], "s": ["one"]}),
    "odd": lambda: table_of(4096 + 8),
    "1 MiB": lambda: table_of(MIB),
    "several streams": lambda: table_of(70 * MIB + 8),
    "many small": lambda: chunked(3000),
    "nested": lambda: pa.table({"l": [[1, 2], [], None, [3]] * 50_000, "s": ["a", None] * 100_000}),
}


@pytest.mark.parametrize("make", TABLES.values(), ids=TABLES.keys())
def test_bytes_are_right(there, here, make):
    wanted = there.publish(make())
    arrived = here.fetch(there.serve(), wanted)
    arrived.validate(full=True)
    assert arrived.equals(make())


def test_parts_are_the_whole():
    segment = b"s" * 16
    for sizes in [[], [0], [0, 5, 0, 1], [1], [100], [7, 0, 93], [1] * 50]:
        targets = [memoryview(bytearray(size)) for size in sizes]
        allocations = [(segment, 1000 * n, size) for n, size in enumerate(sizes)]
        for count in 1, 2, 3, 7:
            parts = split(allocations, targets, count)
            assert len(parts) == count
            pieces = [piece for part in parts for piece in part.pieces]
            covered = [
                (offset, first + i)
                for _, offset, size, first, length in pieces
                for i in range(length)
            ]
            assert covered == [(o, i) for _, o, size in allocations for i in range(size)]
            lengths = [part.nbytes for part in parts]
            assert max(lengths) - min(lengths) <= 1


def test_a_landed_object_goes_with_its_last_reader(there, here):
    wanted = there.publish(table_of(MIB))
    arrived = here.fetch(there.serve(), wanted)
    wait_until(lambda: here.connected().stats().objects == 1)  # the copy, not what landed
    column = arrived.column("x")
    del arrived
    assert column.to_pylist()[:2] == [0, 1]
    del column
    wait_until(here.is_empty)


def test_who_asks_again_gets_what_is_there(there, here, link):
    way = link()
    wanted = there.publish(table_of(MIB))
    first = here.land(way.location, wanted)
    again = here.land(way.location, wanted)
    assert first[0] == again[0]
    assert MIB < way.forwarded < 2 * MIB
    del first, again
    wait_until(here.is_empty)
    assert here.fetch(way.location, wanted).equals(table_of(MIB))
    assert way.forwarded > 2 * MIB


def test_many_who_ask_at_once_share_a_transfer(there, here, link):
    way = link(limit=MIB)
    wanted = there.publish(table_of(8 * MIB))
    worker = here.worker()
    fetch = f"""
        from tests.helpers.machines import Object, SECURITY, decoded
        from zerrow_store.transfer import local
        wanted = Object({wanted.object_id!r}, {wanted.message!r}, {wanted.allocations!r})
        places, hold = local.fetch(
            client, SECURITY, {way.location!r}, wanted.object_id, wanted.allocations
        )
        (places, pc.sum(decoded(wanted, places, hold)["x"]).as_py())
    """
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(here.land, way.location, wanted) for _ in range(8)]
        worker.start(fetch)
        wait_until(way.is_stuck)
        way.set_limit(None)
        landed = [each.result() for each in asked]
    places, total = worker.finish()
    assert total == sum(range(MIB))
    assert all(each[0] == places for each in landed)
    assert way.connections == 1
    wait_until(lambda: here.connected().stats().objects == 1)


def test_many_objects_from_several_machines_at_once(machine, here):
    sources = [machine() for _ in range(3)]
    wanted = [
        (source.serve(), source.publish(table_of(n * 100_000 + 8, n)), n)
        for source in sources
        for n in range(12)
    ]
    with ThreadPoolExecutor(12) as pool:
        arrived = list(pool.map(lambda each: here.fetch(each[0], each[1]), wanted))
    for (_, _, n), each in zip(wanted, arrived, strict=True):
        assert each.equals(table_of(n * 100_000 + 8, n))
    del arrived, each
    wait_until(here.is_empty)


def test_what_was_spilled_is_sent_from_its_file(there, here):
    wanted = there.publish(table_of(40 * MIB))
    client = there.connected()
    client.spill_ahead([wanted.object_id])
    wait_until(lambda: client.stats().bytes_stored == 0)
    assert here.fetch(there.serve(), wanted).equals(table_of(40 * MIB))
    assert client.stats().bytes_stored == 0


def test_spilled_bytes_that_have_changed_are_not_sent(there, here):
    wanted, whole = there.publish(table_of(MIB)), there.publish(table_of(MIB, 1))
    client = there.connected()
    client.spill_ahead([wanted.object_id])
    wait_until(lambda: client.stats().bytes_spilled >= MIB)
    (path,) = spilled_files(there.server_pid())
    with open(path, "r+b") as file:
        file.seek(1000)
        file.write(b"spoiled")
    with pytest.raises(ObjectLostError, match="changed on disk"):
        here.fetch(there.serve(), wanted)
    assert here.fetch(there.serve(), whole).equals(table_of(MIB, 1))


def test_a_spilled_file_that_is_cut_short_is_an_error(there, here):
    wanted = there.publish(table_of(MIB))
    client = there.connected()
    client.spill_ahead([wanted.object_id])
    wait_until(lambda: client.stats().bytes_spilled >= MIB)
    (path,) = spilled_files(there.server_pid())
    os.truncate(path, 4096)
    with pytest.raises(ObjectLostError):
        here.fetch(there.serve(), wanted)
    wait_until(here.is_empty)


def test_what_has_landed_is_found_without_its_source(there, here):
    wanted = there.publish(table_of(MIB))
    places, hold = here.land(there.serve(), wanted)
    there.connected().delete(wanted.object_id)
    arrived = here.fetch("127.0.0.1:1", wanted)  # nobody is asked
    del places, hold
    assert arrived.equals(table_of(MIB))


def test_an_object_that_is_not_there(there, here):
    wanted = there.publish(table_of(MIB))
    there.connected().delete(wanted.object_id)
    with pytest.raises(ObjectLostError, match=wanted.object_id.hex()):
        here.fetch(there.serve(), wanted)
    wait_until(here.is_empty)


def test_a_store_that_is_full_takes_nothing(there, machine, link):
    small = machine(budget=16 * MIB)
    way = link()
    wanted, fits = there.publish(table_of(32 * MIB)), there.publish(table_of(8 * MIB))
    with pytest.raises(StoreFullError):
        small.fetch(way.location, wanted)
    assert way.connections == 0  # it was not even asked for
    wait_until(small.is_empty)
    assert small.fetch(way.location, fits).equals(table_of(8 * MIB))


def test_what_is_idle_makes_room_for_what_is_landed(there, machine):
    small = machine(budget=32 * MIB)
    idle = small.connected().put(table_of(20 * MIB))
    wanted = there.publish(table_of(20 * MIB, 1))
    assert small.fetch(there.serve(), wanted).equals(table_of(20 * MIB, 1))
    assert small.connected().get(idle).equals(table_of(20 * MIB))


def test_no_descriptors_are_left(there, here):
    location = there.serve()

    def fetch(count):
        for n in range(count):
            wanted = there.publish(table_of(20 * MIB, n))
            assert here.fetch(location, wanted).num_rows
            there.connected().delete(wanted.object_id)
        wait_until(here.is_empty)
        return descriptors(there.agent()), descriptors(here.agent())

    before = fetch(3)
    wait_until(lambda: fetch(10) <= before)
