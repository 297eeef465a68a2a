"""The policy of `docs/eviction-policy.md`, taken from the page, drives a store."""

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.pages import DOCS, examples
from tests.helpers.stores import Store
from tests.helpers.waiting import wait_until

_BUDGET = 64 << 20


@pytest.fixture
def store(tmp_path: Path, disk: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """A store whose policy is the page's first example."""
    (_, code), *_ = examples(DOCS / "eviction-policy.md")
    (tmp_path / "largest_first.py").write_text(code)
    inherited = [path for path in [os.environ.get("PYTHONPATH")] if path]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *inherited]))
    name = f"docs-{uuid.uuid4().hex[:12]}"
    made = Store(name, budget=_BUDGET, eviction="largest_first:LargestFirst")
    yield made
    made.stop()


def test_the_largest_go_first_and_small_ones_stay(store: Store) -> None:
    # In a process of its own: what is left of earlier tests in this one's arena would count.
    producer = store.worker()
    producer.do("""
        def put(size):
            few = pc.add(pa.array(range(1000)), 1)
            return client.put(pa.table({"x": few.take(pa.array([7] * (size // 8)))}))
    """)
    sizes = [512 << 10] * 3 + [4 << 20] * 2 + [16 << 20, 12 << 20]  # the small ones idle longest
    ids = [producer.do(f"put({size})") for size in sizes]
    client = store.connect()
    assert client.stats().eviction == "largest_first:LargestFirst"
    while client.stats().bytes_spilled == 0:
        producer.do(f"put({2 << 20})")
    wait_until(lambda: client.evictions())
    on_disk: dict[int, list[bool]] = {}
    for object_id, size in zip(ids, sizes, strict=True):
        on_disk.setdefault(size, []).append(bool(client.hold(object_id).moved))
    assert on_disk[16 << 20] == [True]
    assert on_disk[512 << 10] == [False] * 3
    by_size = [any(on_disk[size]) for size in sorted(on_disk, reverse=True)]
    assert by_size == sorted(by_size, reverse=True), "a smaller one went before a larger one"
    assert {record.way for record in client.evictions()} == {"spill"}
