"""Items of streaming generators: readable as long as anybody refers to them."""

import asyncio
import os
import subprocess
import sys
import time

import numpy as np
import pyarrow as pa
import pytest
import ray

from tests.helpers.rays import total
from tests.helpers.waiting import eventually
from zerrow_ray import connecting

pytestmark = pytest.mark.usefixtures("cluster")

ROWS = 1_000_000


@pytest.fixture(autouse=True)
def _nothing_of_the_test_before(cluster: None) -> None:
    """Objects are counted here; those of the test before go by and by."""
    eventually(lambda: total()["objects"] == 0, "what the test before has stored is gone")


def make(i: int) -> pa.Table:
    return pa.table({"x": np.arange(i, i + ROWS)})


def read_later(refs: list[ray.ObjectRef], first: int = 0) -> None:
    for i, ref in enumerate(refs, first):
        assert ray.get(ref).equals(make(i))


def items(i: int):
    yield make(i)
    time.sleep(0.5)
    yield i


@ray.remote
def stream(i: int):
    yield from items(i)


@ray.remote
class Streaming:
    def stream(self, i: int):
        yield from items(i)


@ray.remote
class AsyncStreaming:
    async def stream(self, i: int):
        for item in items(i):
            yield item


@ray.remote(num_cpus=0)
class Stranger:
    """A process that has no connection to the store until it reads a table."""

    def run(self, test, *args):
        connecting._connecting = os.getpid()
        return test(*args)


def begin_stream(where: str) -> ray.ObjectRefGenerator:
    if where == "task":
        return stream.remote(1)
    actor = (Streaming if where == "actor" else AsyncStreaming).remote()
    return actor.stream.options(num_returns="streaming").remote(1)


def read_as_a_stranger(where):
    generator = begin_stream(where)
    ref, number = next(generator), next(generator)
    assert ray.get(number) == 1
    read_later([ref], first=1)


@pytest.mark.parametrize("where", ["task", "actor", "async actor"])
def test_items_whose_owner_the_store_does_not_know(where):
    ray.get(Stranger.remote().run.remote(read_as_a_stranger, where))


@pytest.mark.parametrize("where", ["task", "actor", "async actor"])
def test_items_go_with_their_references(where):
    before = total()["objects"]
    generator = begin_stream(where)
    ref, _ = next(generator), next(generator)
    assert total()["objects"] == before + 1
    read_later([ref], first=1)
    del ref
    eventually(lambda: total()["objects"] == before, "it is gone")


def test_items_that_nobody_takes_go_with_their_stream():
    before = total()["objects"]
    generator = several.remote(4)
    ray.get(next(generator))
    eventually(lambda: total()["objects"] == before + 3, "three are waiting, one is gone")
    kept = next(generator)
    del generator
    eventually(lambda: total()["objects"] == before + 1, "what nobody has taken is gone")
    read_later([kept], first=1)


@ray.remote
def several(count: int):
    for i in range(count):
        yield make(i)


def test_items_that_are_taken_several_at_a_time():
    before = total()["objects"]
    generator = several.remote(4)
    refs = generator._get_next_ref_n(3)
    ray.wait(refs, num_returns=3)
    generator._consume_next_ref_n(3)
    time.sleep(1)
    read_later(refs)
    del refs
    eventually(lambda: total()["objects"] == before + 1, "those are gone")
    read_later([next(generator)], first=3)


def test_items_that_are_taken_in_an_event_loop():
    async def read():
        return [await ref async for ref in several.remote(3)]

    before = total()["objects"]
    assert [table.equals(make(i)) for i, table in enumerate(asyncio.run(read()))] == [True] * 3
    eventually(lambda: total()["objects"] == before, "they are gone")


@pytest.mark.parametrize("kind", ["task", "actor"])
@pytest.mark.filterwarnings("ignore:num_returns='dynamic'")
def test_dynamic_returns_outlive_their_generator(kind):
    if kind == "task":
        returned = several.options(num_returns="dynamic").remote(3)
    else:
        actor = Several.remote()
        returned = actor.several.options(num_returns="dynamic").remote(3)
    refs = list(ray.get(returned))
    del returned
    time.sleep(1)
    read_later(refs)


@ray.remote
class Several:
    def several(self, count: int):
        for i in range(count):
            yield make(i)


@ray.remote
class Recycling:
    """Is given what it has yielded."""

    def stream(self):
        yield make(0)

    def rows(self, table: pa.Table) -> int:
        return table.num_rows


@ray.remote
class AsyncRecycling:
    async def stream(self):
        yield make(0)
        await asyncio.sleep(0.5)

    async def rows(self, table: pa.Table) -> int:
        return table.num_rows


@pytest.mark.parametrize("actor_class", [Recycling, AsyncRecycling])
def test_an_item_that_its_producer_is_given_is_not_lost(actor_class):
    actor = actor_class.remote()
    generator = actor.stream.options(num_returns="streaming").remote()
    ref = next(generator)
    assert ray.get(actor.rows.remote(ref)) == ROWS
    time.sleep(2)
    read_later([ref])


@ray.remote
class Overlapping:
    """An async actor with a plain generator: its tasks share a thread."""

    def stream(self):
        for i in range(3):
            yield make(i)

    async def other(self):
        return 1


def test_a_plain_generator_among_the_tasks_of_an_async_actor():
    # Which of its tasks yields an item is not known: Ray's own path.
    actor = Overlapping.remote()
    generator = actor.stream.options(num_returns="streaming").remote()
    for i in range(3):
        ray.get(actor.other.remote())
        read_later([next(generator)], first=i)


def test_many_plain_generators_of_an_async_actor():
    """One's items come after the end of another one, in the same thread."""
    actor = Overlapping.options(max_concurrency=8).remote()
    calls = [actor.stream.options(num_returns="streaming").remote() for _ in range(40)]
    for generator in calls:
        for i, ref in enumerate(generator):
            assert ray.get(ref).equals(make(i))


def test_an_item_that_its_worker_is_given_next_is_not_lost():
    @ray.remote(num_cpus=0)
    def stream_of_one():
        yield os.getpid()
        yield make(0)

    @ray.remote(num_cpus=0)
    def pid_of_reader(table: pa.Table) -> int:
        assert table.num_rows == ROWS
        return os.getpid()

    same = 0
    for _ in range(10):
        pid, ref = stream_of_one.remote()
        same += ray.get(pid) == ray.get(pid_of_reader.remote(ref))
        time.sleep(0.2)
        read_later([ref])
    assert same  # Ray gives an idle worker the next task


def test_a_worker_that_ends_after_a_stream_leaves_its_items():
    @ray.remote(max_calls=1)
    def once():
        yield os.getpid()
        yield make(0)

    before = total()["bytes_stored"]
    pid, ref = once.remote()
    pid = ray.get(pid)
    eventually(lambda: not os.path.exists(f"/proc/{pid}"), "the worker has ended")
    time.sleep(1)  # for the news of it to reach everybody
    read_later([ref])
    del ref
    eventually(lambda: total()["bytes_stored"] <= before, "the item is freed")


def test_items_are_freed_while_the_stream_goes_on():
    before = total()["bytes_stored"]

    @ray.remote(_generator_backpressure_num_objects=1)
    def endless():
        i = 0
        while True:
            yield make(i)
            i += 1

    generator = endless.remote()
    for _ in range(3):
        ray.get(next(generator))
    eventually(lambda: total()["bytes_stored"] <= before + 2 * 8 * ROWS, "what was read is freed")
    del generator


KILLED = """
import os, time, ray, zerrow_ray
from tests.helpers.rays import total
from tests.helpers.waiting import eventually
from tests.ray.test_streams import make, read_later

@ray.remote(max_retries=0)
def killed():
    yield make(0)
    yield make(1)
    os.kill(os.getpid(), 9)

zerrow_ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
generator = killed.remote()
refs = [next(generator), next(generator)]
time.sleep(3)  # for the news of its death to reach everybody
read_later(refs)
assert total()["objects"] == 2
del refs, generator
eventually(lambda: total()["objects"] == 0, "nothing is left")
"""


def test_a_killed_producers_last_items_are_not_lost():
    subprocess.run([sys.executable, "-c", KILLED], check=True)
