"""Many threads on one arena: contents stay, books balance."""

import random
import struct
import subprocess
import sys
import threading

import pytest

from tests.helpers.arena import peek, poke
from zerrow_store.native import _native

probe = _native.ArenaProbe


class Worker(threading.Thread):
    def __init__(self, seed: int) -> None:
        super().__init__()
        self.random = random.Random(seed)
        self.mark = bytes([seed])
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            self.work()
        except BaseException as error:
            self.error = error

    def work(self) -> None:
        held: list[tuple[int, int, int]] = []
        for _ in range(3000):
            action = self.random.random()
            if action < 0.5 or not held:
                size = self.random.choice([10, 64, 700, 5000, 30_000, 40_000, 300_000])
                address = probe.allocate(size, numpy=self.random.random() < 0.2)
                poke(address, self.mark * size)
                found = probe.find(address, size)
                assert found
                held.append((address, size, found[0]))
            elif action < 0.9:
                address, size, _ = held.pop(self.random.randrange(len(held)))
                assert peek(address, size) == self.mark * size
                probe.free(address)
            elif action < 0.99:
                address, size, offset = self.random.choice(held)
                assert probe.pin(offset)
                assert peek(address, size) == self.mark * size
                _native.unpin(struct.pack("<Q", offset))
            else:
                _native.ArenaProbe.trim(self.random.choice([0, 1 << 20]))
        for address, size, _ in held:
            assert peek(address, size) == self.mark * size
            probe.free(address)


@pytest.mark.parametrize("count", [1, 8])
def test_threads_do_not_disturb_each_other(count: int) -> None:
    before = _native.arena_stats()
    workers = [Worker(seed + 1) for seed in range(count)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.error for worker in workers] == [None] * count
    _native.ArenaProbe.trim()
    after = _native.arena_stats()
    for name in ("live", "pinned", "quarantined"):
        assert after[name] == before[name]
    assert after["warm"] == 0


ENDING = """
import threading, time
from zerrow_store import memory
from zerrow_store.native import _native
memory.start()
def use():
    while True:
        _native.bound_unpublished(1 << 20)
        _native.ArenaProbe.trim(0)
for _ in range(3):
    threading.Thread(target=use, daemon=True).start()
time.sleep(0.05)
"""


def test_a_process_ends_while_its_daemon_threads_are_in_the_arena() -> None:
    for _ in range(3):
        ran = subprocess.run([sys.executable, "-c", ENDING], capture_output=True, text=True)
        assert (ran.returncode, ran.stderr) == (0, "")
