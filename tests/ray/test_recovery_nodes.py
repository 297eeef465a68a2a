"""Lost results are made again while more nodes come and go."""

import os
import subprocess
import sys
import time

import pytest
import ray

from tests.helpers.capabilities import needs_openssl
from tests.helpers.certificates import with_tls
from tests.helpers.lost_results import (
    bring_messages,
    expected,
    has_message,
    have_messages,
    lose,
    made,
    result,
    sum_of,
)
from tests.helpers.rays import make, on, size_of
from tests.helpers.waiting import eventually
from zerrow_ray import ray_recovery_compat


@pytest.fixture
def path(tmp_path):
    """Where it is written down that a result was made."""
    return tmp_path / "runs"


total_of = ray.remote(sum_of)


def test_messages_on_other_nodes_are_found_worthless_there(nodes, path):
    nodes.add("third")
    (ref,) = result(str(path))
    ray.get(on(ray.remote(bring_messages), "third").remote([ref]))
    eventually(lambda: has_message(ref, nodes.id_of("third")), "the other node has it")
    lose(nodes, [ref])
    assert sum_of(ray.get(ref, timeout=240)) == expected(1)
    assert ray.get(on(total_of, "third").remote(ref), timeout=240) == expected(1)
    assert path.read_text() == "xx"


def test_the_second_node_ends_during_the_recovery(nodes, path):
    refs = result(str(path), levels=2)
    lose(nodes, refs)
    got = on(total_of, "head").remote(refs[-1])
    eventually(lambda: len(path.read_text()) > 2, "it is made again", seconds=120)
    nodes.kill("second")
    nodes.add("third", also="first")
    assert ray.get(got, timeout=400) == expected(2)
    assert sum_of(ray.get(refs[-1], timeout=400)) == expected(2)


class Owner:
    """Owns a result, and reads it."""

    def __init__(self):
        eventually(self._goes_by_reference, "the other nodes know this one")

    def _goes_by_reference(self):
        ref = on(ray.remote(make), "first").remote()
        ray.wait([ref])
        return size_of(ref) < 1 << 20

    def make(self, path):
        (self._ref,) = result(path)
        bring_messages([self._ref])
        return [self._ref]

    def total(self):
        return sum_of(ray.get(self._ref))


def test_what_a_worker_of_another_node_owns_is_made_again(nodes, path):
    nodes.add("third")
    owner = on(ray.remote(Owner), "third").remote()
    (ref,) = ray.get(owner.make.remote(str(path)))
    lose(nodes, [ref])
    assert sum_of(ray.get(ref, timeout=240)) == expected(1)
    assert ray.get(owner.total.remote(), timeout=240) == expected(1)
    assert path.read_text() == "xx"


def test_when_the_owner_has_ended_too_the_error_is_rays(nodes, path):
    nodes.add("third")
    owner = on(ray.remote(Owner), "third").remote()
    (ref,) = ray.get(owner.make.remote(str(path)))
    have_messages([ref])
    nodes.kill("third")
    nodes.kill_and_wait("first")
    with pytest.raises(ray.exceptions.OwnerDiedError, match=ref.hex()):
        ray.get(ref, timeout=240)


class Maker:
    def make(self, path):
        return made(path)

    def total_of(self, table):
        return sum_of(table)


def test_an_actor_does_not_wait_for_a_result_of_its_own(nodes, path):
    """It would have to make it, while it waits."""
    maker = ray.remote(max_restarts=-1, max_task_retries=-1)(Maker)
    actor = maker.options(resources={"first": 1}).remote()
    ref = actor.make.remote(str(path))
    lose(nodes, [ref])
    ray.get(on(ray.remote(bring_messages), "second").remote([ref]))
    with pytest.raises(ray.exceptions.RayTaskError, match="which is gone"):
        ray.get(actor.total_of.remote(ref), timeout=100)
    assert ray.get(actor.total_of.remote(ref), timeout=240) == expected(1)


class Reader:
    """Reads tables until a file is there."""

    def total_of(self, table, until=None):
        total = sum_of(table)
        while until and not os.path.exists(until):
            time.sleep(0.1)
        return total


def test_an_actors_call_waits_for_a_node_that_can_make_its_argument(nodes, path):
    reader = on(ray.remote(Reader), "head").remote()
    (ref,) = result(str(path))
    have_messages([ref])
    nodes.kill_and_wait("first")
    got = reader.total_of.remote(ref)
    with pytest.raises(ray.exceptions.GetTimeoutError):
        ray.get(got, timeout=3)
    nodes.add("second", also="first")
    assert ray.get(got, timeout=240) == expected(1)


def test_others_read_what_a_call_keeps_a_worthless_message_of(nodes, path, tmp_path):
    """There is no room for another one on that node while the call runs."""
    (ref,) = result(str(path))
    lose(nodes, [ref])
    reader = on(ray.remote(Reader), "head").remote()
    end = tmp_path / "end"
    got = reader.total_of.remote(ref, str(end))
    eventually(lambda: path.read_text() == "xx", "it is made again", seconds=120)
    eventually(lambda: has_message(ref, nodes.id_of("second")), "it is there", seconds=120)
    assert sum_of(ray.get(ref, timeout=240)) == expected(1)
    total = total_of.options(resources={"head": 1}, max_retries=0).remote(ref)
    assert ray.get(total, timeout=240) == expected(1)
    end.touch()
    assert ray.get(got, timeout=240) == expected(1)
    assert path.read_text() == "xx"


def made_once(path):
    table = made(path)
    with open(path) as file:
        if file.read() != "x":
            raise ValueError("not again")
    return table


def test_a_call_hears_that_its_argument_cannot_be_made_again(nodes, path):
    nodes.add("third")
    ref = on(ray.remote(made_once), "first").remote(str(path))
    have_messages([ref])
    ray.get(on(ray.remote(bring_messages), "third").remote([ref]))
    reader = on(ray.remote(Reader), "third").remote()
    nodes.kill_and_wait("first")
    nodes.add("second", also="first")
    with pytest.raises(ValueError, match="not again"):
        ray.get(reader.total_of.remote(ref), timeout=240)
    with pytest.raises(ValueError, match="not again"):
        ray.get(ref, timeout=240)


def test_a_get_that_has_a_timeout_ends_with_it(nodes, path):
    (ref,) = result(str(path))
    have_messages([ref])
    nodes.kill_and_wait("first")  # so nobody can make it
    with pytest.raises(ray.exceptions.GetTimeoutError):
        ray.get(ref, timeout=5)
    nodes.add("second", also="first")
    assert sum_of(ray.get(ref, timeout=240)) == expected(1)


def test_a_copy_that_is_worth_something_stays(nodes, path):
    (ref,) = result(str(path))
    have_messages([ref])
    for _ in range(3):
        ray_recovery_compat.make_again([ref])
        assert sum_of(ray.get(ref, timeout=120)) == expected(1)
    nodes.kill_and_wait("first")  # and the table, which is here, outlives it
    assert sum_of(ray.get(ref, timeout=120)) == expected(1)
    assert path.read_text() == "x"


SECURED = """
import sys
import ray
from tests.helpers.lost_results import expected, lose, nodes, result, sum_of

with nodes() as found:
    found.add("first")
    (ref,) = result(sys.argv[1])
    lose(found, [ref])
    assert sum_of(ray.get(ref, timeout=240)) == expected(1)
"""


@needs_openssl
def test_the_processes_of_a_secured_ray_are_told(path, tmp_path):
    environ = with_tls(tmp_path / "authority")
    environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "a" * 64}
    command = [sys.executable, "-c", SECURED, str(path)]
    ran = subprocess.run(
        command, env=environ, capture_output=True, text=True, check=False, timeout=280
    )
    assert ran.returncode == 0, ran.stderr
    assert path.read_text() == "xx"
