"""Published bytes do not change: NumPy's owners write to a private copy."""

import struct

import numpy as np
import pytest

from tests.helpers.arena import file_bytes
from tests.helpers.python import run_python
from zerrow_store.native import _native

pytestmark = pytest.mark.usefixtures("captured")
probe = _native.ArenaProbe


def offset_of(array: np.ndarray) -> int:
    found = probe.find(array.ctypes.data, array.nbytes)
    assert found is not None
    return found[0]


def unpin(offset: int) -> None:
    _native.unpin(struct.pack("<Q", offset))


def test_writes_after_publication_stay_with_the_owner() -> None:
    array = np.arange(100_000, dtype=np.int64)
    published = array.tobytes()
    offset = offset_of(array)
    assert probe.pin(offset)
    array[:] = -1
    assert (array == -1).all()
    assert file_bytes(array.ctypes.data, array.nbytes) == published
    unpin(offset)


def test_an_array_published_again_is_shared_until_it_is_written() -> None:
    array = np.arange(100_000, dtype=np.int64)
    offset = offset_of(array)
    assert probe.pin(offset)
    assert int(array.sum()) == sum(range(100_000))  # reading is not writing
    assert probe.pin(offset)
    unpin(offset)
    unpin(offset)
    assert probe.pin(offset)
    array[99_999] = 0  # one byte in the last page
    assert not probe.pin(offset)
    unpin(offset)
    assert not probe.pin(offset)


def test_neighbours_are_not_touched() -> None:
    arrays = [np.full(32 << 10, i, np.uint8) for i in range(9)]
    offsets = [offset_of(array) for array in arrays]
    for offset in offsets[::2]:
        assert probe.pin(offset)
    for i, array in enumerate(arrays):
        array += 100
        expected = i if i % 2 == 0 else i + 100
        assert set(file_bytes(array.ctypes.data, array.nbytes)) == {expected}
        assert (array == i + 100).all()
    for offset in offsets[::2]:
        unpin(offset)


def test_recycled_memory_is_shared_again() -> None:
    array = np.ones(1 << 20, np.uint8)
    address, offset = array.ctypes.data, offset_of(array)
    assert probe.pin(offset)
    array[:] = 2
    del array
    assert probe.find(address, 1) == (offset, 1 << 20)
    assert file_bytes(address, 1 << 20) == b"\1" * (1 << 20)
    unpin(offset)
    assert probe.find(address, 1) is None
    again = np.full(1 << 20, 3, np.uint8)
    assert file_bytes(again.ctypes.data, again.nbytes) == b"\3" * (1 << 20)


def test_private_ranges_are_bounded() -> None:
    """vm.max_map_count is the process's; beyond the bound publication copies."""
    run_python(
        """
        import numpy as np
        from zerrow_store import memory
        from zerrow_store.native._native import ArenaProbe as probe
        memory.start()
        arrays = [np.zeros(40_000, np.uint8) for _ in range(1500)]
        offsets = [probe.find(a.ctypes.data, 1)[0] for a in arrays]
        pinned = [probe.pin(offset) for offset in offsets]
        assert pinned == [True] * 1000 + [False] * 500
        assert sum(1 for _ in open("/proc/self/maps")) < 4000
        del arrays[0]
        import struct
        from zerrow_store.native import _native
        _native.unpin(struct.pack("<Q", offsets[0]))
        assert probe.pin(offsets[1400])
        """
    )
