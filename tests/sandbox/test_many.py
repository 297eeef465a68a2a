"""Many calls leave nothing behind; `make nightly` makes ten thousand."""

import threading

import pytest

from tests.helpers.capabilities import needs_sandboxes
from tests.helpers.sandboxes import where
from tests.nightly import sandbox_calls
from zerrow_store import sandbox

pytestmark = needs_sandboxes


@pytest.mark.slow
def test_many_calls_leak_nothing() -> None:
    before, after, _ = sandbox_calls.measure(2000)
    assert sandbox_calls.leaked(before, after) == {}


def test_a_tenant_in_a_hurry_gets_sandboxes_that_take_turns() -> None:
    places = {sandbox.run(where, tenant="hurried") for _ in range(60)}
    assert 1 <= len(places) <= 4
    elsewhere = {sandbox.run(where, tenant="another") for _ in range(3)}
    assert not places & elsewhere


def test_calls_of_many_threads_at_once() -> None:
    results: dict[int, int] = {}

    def call(number: int) -> None:
        results[number] = sandbox.run(lambda n: n * n, number, tenant=f"thread-{number % 2}")

    callers = [threading.Thread(target=call, args=(number,)) for number in range(12)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert results == {number: number * number for number in range(12)}
