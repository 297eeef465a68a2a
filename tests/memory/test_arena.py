"""The arena against a model: contents stay, allocations never overlap, books balance.

The file is long because all that an arena promises stands in it.
"""

import os
import struct
from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.helpers.arena import file_bytes, peek, poke, resident
from tests.helpers.python import run_python
from zerrow_store.native import _native

probe = _native.ArenaProbe

SIZES = st.one_of(
    st.integers(1, 600),
    st.integers(1, 32 << 10),
    st.sampled_from([1, 63, 64, 65, 512, 513, 4096, 32 << 10, (32 << 10) + 1, 1 << 20]),
    st.integers(32 << 10, 3 << 20),
)


def offset_of(address: int) -> int:
    found = probe.find(address, 1)
    assert found is not None
    return found[0]


def unpin(*offsets: int) -> None:
    _native.unpin(struct.pack(f"<{len(offsets)}Q", *offsets))


@dataclass(eq=False)
class Block:
    address: int
    offset: int
    size: int
    mark: int
    numpy: bool
    pins: int = 0
    freed: bool = False
    published: bool = False  # once pinned; NumPy-born memory is private to its owner since then
    stale: bool = False  # the owner wrote after publication

    @property
    def data(self) -> bytes:
        """The bytes at both ends, where a neighbour would write over."""
        return bytes([self.mark]) * min(self.size, 64)

    def fill(self, mark: int) -> None:
        self.mark = mark
        self.stale = self.numpy and self.published
        poke(self.address, bytes([mark]) * self.size)

    def check(self) -> None:
        ends = len(self.data)
        assert peek(self.address, ends) == self.data
        assert peek(self.address + self.size - ends, ends) == self.data
        if not self.stale:
            assert file_bytes(self.address, ends) == self.data


class ArenaMachine(RuleBasedStateMachine):
    blocks = Bundle("blocks")

    def __init__(self) -> None:
        super().__init__()
        _native.ArenaProbe.trim()
        self.before = _native.arena_stats()
        self.resident_before = resident()
        self.all: list[Block] = []
        self.mark = 0

    def next_mark(self) -> int:
        self.mark = self.mark % 255 + 1
        return self.mark

    @rule(target=blocks, size=SIZES, numpy=st.booleans(), zeroed=st.booleans())
    def allocate(self, size: int, numpy: bool, zeroed: bool) -> Block:
        address = probe.allocate(size, numpy=numpy, zeroed=zeroed)
        assert address
        assert address % (4096 if numpy or size > 32 << 10 else 64) == 0
        if zeroed:
            assert peek(address, size) == bytes(size)
        assert probe.find(address, size) == (offset_of(address), size)
        assert all(
            address + size <= other.address or other.address + other.size <= address
            for other in self.all
        )
        block = Block(address, offset_of(address), size, 0, numpy)
        block.fill(self.next_mark())
        self.all.append(block)
        return block

    @rule(target=blocks, block=consumes(blocks))
    def free(self, block: Block) -> object:
        if block.freed:
            return multiple(block)
        probe.free(block.address)
        if not block.pins:
            self.all.remove(block)
            return multiple()
        block.freed = True
        return block

    @rule(block=blocks, size=SIZES)
    def resize(self, block: Block, size: int) -> None:
        if block.freed or not probe.resize(block.address, size):
            return
        assert not block.pins
        kept = min(size, block.size, 64)
        assert peek(block.address, kept) == block.data[:kept]
        block.size = size
        block.fill(self.next_mark())

    @rule(block=blocks)
    def pin(self, block: Block) -> None:
        if probe.pin(block.offset):
            assert not block.stale
            block.pins += 1
            block.published = True
        else:
            assert block.stale

    @rule(target=blocks, block=consumes(blocks))
    def unpin(self, block: Block) -> object:
        if not block.pins:
            return multiple(block)
        unpin(block.offset)
        block.pins -= 1
        if block.freed and not block.pins:
            self.all.remove(block)
            return multiple()
        return block

    @rule(block=blocks)
    def write_published(self, block: Block) -> None:
        """Only NumPy's owners may do this; others' bytes are immutable once published."""
        if not block.numpy or not block.pins or block.freed:
            return
        published = file_bytes(block.address, block.size)
        block.fill(self.next_mark())
        assert block.stale
        assert file_bytes(block.address, block.size) == published

    @precondition(lambda self: self.all)
    @rule(keep=st.sampled_from([0, 1 << 20]))
    def trim(self, keep: int) -> None:
        _native.ArenaProbe.trim(keep)
        assert _native.arena_stats()["warm"] <= keep

    @invariant()
    def books_balance(self) -> None:
        stats = _native.arena_stats()
        live = sum(block.size for block in self.all if not block.freed)
        pinned = sum(block.size for block in self.all if block.pins)
        assert stats["live"] - self.before["live"] == live
        assert stats["pinned"] - self.before["pinned"] == pinned
        for block in self.all:
            block.check()

    def teardown(self) -> None:
        for block in self.all:
            unpin(*[block.offset] * block.pins)
            if not block.freed:
                probe.free(block.address)
        _native.ArenaProbe.trim()
        after = _native.arena_stats()
        for name in ("live", "pinned", "warm", "quarantined"):
            assert after[name] == self.before[name], name
        # The kernel's khugepaged makes a page that was split whole again, every now and then.
        joined = after["page"] if after["page"] > os.sysconf("SC_PAGE_SIZE") else 0
        assert abs(resident() - self.resident_before) <= joined


_settings = settings(
    max_examples=150,
    stateful_step_count=60,
    suppress_health_check=list(HealthCheck),
)


def test_arena_agrees_with_the_model() -> None:
    run_state_machine_as_test(ArenaMachine, settings=_settings)


def test_find_by_interior_address() -> None:
    for size in (100, 5000, 100_000):
        address = probe.allocate(size)
        offset = offset_of(address)
        assert probe.find(address + size - 1, 1) == (offset, size)
        assert probe.find(address + 10, size - 10) == (offset, size)
        assert probe.find(address + 10, size - 9) is None
        assert probe.find(address, 2**64 - 1) is None
        probe.free(address)
        assert probe.find(address, 1) is None


def test_memory_is_not_recycled_while_pinned() -> None:
    for size in (1000, 100_000):
        address = probe.allocate(size)
        offset = offset_of(address)
        poke(address, b"x" * size)
        assert probe.pin(offset)
        assert probe.pin(offset)
        probe.free(address)
        others = [probe.allocate(size) for _ in range(50)]
        unpin(offset)
        assert file_bytes(address, size) == b"x" * size
        assert address not in others
        unpin(offset)
        assert probe.find(address, 1) is None
        assert not probe.pin(offset)
        for other in others:
            probe.free(other)


def test_unpinning_what_is_not_pinned_does_nothing() -> None:
    address = probe.allocate(100_000)
    offset = offset_of(address)
    before = _native.arena_stats()
    unpin(offset, offset + 4096, 1 << 60)
    assert _native.arena_stats() == before
    probe.free(address)
    with pytest.raises(ValueError, match="multiple of 8"):
        _native.unpin(b"1234567")


def test_a_range_that_was_warm_reads_as_zeros_when_asked_for() -> None:
    for size in (200, 40_000, 8 << 20):
        address = probe.allocate(size)
        poke(address, b"x" * size)
        probe.free(address)
        address = probe.allocate(size, zeroed=True)
        assert peek(address, size) == bytes(size)
        probe.free(address)


def test_a_full_arena_falls_back_to_the_original_pool() -> None:
    run_python(
        """
        import numpy as np, pyarrow as pa
        from zerrow_store import memory
        from zerrow_store.memory.buffers import allocate
        from zerrow_store.native import _native
        memory.start()
        assert _native.arena_segment()[2] == 64 << 20
        big = allocate(100 << 20)
        assert not _native.ArenaProbe.contains(big.address)
        array = np.ones(100 << 20, np.uint8)
        assert not _native.ArenaProbe.contains(array.ctypes.data) and array[-1] == 1
        assert _native.ArenaProbe.allocate(100 << 20) == 0
        # What is warm in pieces serves a large one all the same.
        pieces = [allocate(9 << 20) for _ in range(6)]
        del pieces[::2], pieces
        whole = allocate(50 << 20)
        assert _native.ArenaProbe.contains(whole.address)
        assert pa.total_allocated_bytes() == (150 << 20)
        """,
        ZERROW_ARENA_CAPACITY="64MiB",
    )


def test_without_descriptors_the_captures_are_off_with_one_log_line_each() -> None:
    out = run_python(
        """
        import resource, sys, logging
        logging.basicConfig(stream=sys.stdout, format="%(message)s")
        import numpy as np, pyarrow as pa
        from zerrow_store import memory
        from zerrow_store.native import _native
        resource.setrlimit(resource.RLIMIT_NOFILE, (4, 4))
        import os
        spare = []
        try:
            while True: spare.append(os.dup(0))
        except OSError: pass
        assert memory.start() == {"arrow": False, "numpy": False}
        assert pa.allocate_buffer(1 << 20).size == 1 << 20 and np.ones(100000).sum() == 100000
        try: _native.arena_segment()
        except MemoryError as error: assert "ulimit" in str(error)
        else: raise AssertionError
        """
    )
    assert [line.split()[0] for line in out.splitlines()] == ["Arrow", "NumPy"], out


def test_the_arena_is_halved_until_the_system_grants_it() -> None:
    run_python(
        """
        import resource
        from zerrow_store.native import _native
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 30, 1 << 30))
        assert _native.arena_segment()[2] == 1 << 30
        """
    )
    run_python(
        """
        import resource
        from zerrow_store import memory
        from zerrow_store.native import _native
        used = int(open("/proc/self/statm").read().split()[0]) * 4096
        limit = used + (14 << 30)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        memory.start()
        # Readers map whole arenas, and their own once more.
        assert 1 << 30 <= _native.arena_segment()[2] <= limit // 8
        """,
        ZERROW_ARENA_CAPACITY="64GiB",
    )


def test_no_core_has_an_arena() -> None:
    """It would have all of the address space, and a page for each hole."""
    run_python(
        """
        import os
        import numpy as np, pyarrow as pa
        from zerrow_store import memory
        from zerrow_store.native import _native
        memory.start()
        inode = os.fstat(_native.arena_segment()[1]).st_ino
        encoded = _native.encode(pa.table({"x": np.ones(1 << 20)}))  # its memory is private now
        decoded = _native.decode(encoded.message, None)  # mapped once more
        if os.fork() == 0: os.execv("/bin/true", ["true"])
        os.wait()
        def dumped():
            flags, found = [], False
            for line in open("/proc/self/smaps"):
                words = line.split()
                if "-" in words[0] and len(words) > 4:
                    found = int(words[4]) == inode and words[1].endswith("s")
                elif words[0] == "VmFlags:" and found: flags.append("dd" not in words)
            return flags
        assert len(dumped()) >= 2 and not any(dumped()), dumped()
        """
    )


def test_a_memfd_is_sealed_against_changing_its_size() -> None:
    run_python(
        """
        import fcntl, os
        from zerrow_store import memory
        from zerrow_store.native import _native
        memory.start()
        _, fd, size = _native.arena_segment()
        executable = 0x20  # F_SEAL_EXEC, of Linux 6.3
        assert fcntl.fcntl(fd, fcntl.F_GET_SEALS) & ~executable == (
            fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
        )
        assert os.fstat(fd).st_size == size
        assert not os.get_inheritable(fd)
        try: os.ftruncate(fd, size - 4096)
        except PermissionError: pass
        else: raise AssertionError
        """,
        ZERROW_HUGE_PAGES="off",
    )


def test_a_double_free_aborts_instead_of_corrupting() -> None:
    for size in (100, 100_000):
        code = f"""
            import os
            from zerrow_store.native._native import ArenaProbe as probe
            pid = os.fork()
            if not pid:
                address = probe.allocate({size})
                probe.allocate({size})
                probe.free(address)
                os.dup2(os.open("/dev/null", os.O_WRONLY), 2)
                probe.free(address)
                os._exit(0)
            import signal
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGABRT
        """
        run_python(code)


def test_only_large_allocations_wait_while_producers_are_held_back():
    run_python("""
        import threading, time
        import numpy as np, pyarrow as pa, pyarrow.compute as pc
        from zerrow_store import memory
        from zerrow_store.native import _native
        memory.start()
        small, large = (pa.array(np.arange(rows)) for rows in (10_000, 1_000_000))
        def seconds(array):
            start = time.monotonic()
            assert len(pc.add(array, 0)) == len(array)
            return time.monotonic() - start
        seconds(large)  # the arena is there
        _native.hold_back(60.0)
        assert seconds(small) < 50
        threading.Timer(0.3, _native.hold_back, [0.0]).start()
        assert seconds(large) >= 0.2
        _native.hold_back(0.3)
        assert seconds(large) >= 0.2  # and it ends by itself
        assert seconds(large) < 50
    """)
