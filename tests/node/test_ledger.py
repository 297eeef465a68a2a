"""The native counts: what they refuse, and offsets against Python's own sets."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zerrow_store._ledger import Ledger, OffsetSet

offsets = st.sets(st.integers(0, 40))


def ranges(*pairs: tuple[int, int]) -> bytes:
    return b"".join(struct.pack("<QQ", *pair) for pair in pairs)


def packed(numbers: set[int]) -> bytes:
    return struct.pack(f"<{len(numbers)}Q", *numbers)


def unpacked(numbers: bytes) -> set[int]:
    return {number for (number,) in struct.iter_unpack("<Q", numbers)}


@pytest.mark.parametrize(
    "pair", [(0, 0), (0, 101), (100, 1), (99, 2), (1 << 63, 1 << 63), (2**64 - 1, 2)]
)
def test_a_range_outside_of_its_segment_is_refused(pair: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="outside"):
        Ledger().missing(ranges(pair), 100)


def test_a_size_that_changed_is_refused() -> None:
    ledger = Ledger()
    ledger.add(ranges((8, 16)))
    with pytest.raises(ValueError, match="changed its size"):
        ledger.missing(ranges((8, 17)), 100)
    assert not ledger.contains(ranges((8, 17)))
    assert ledger.contains(ranges((8, 16)))


@pytest.mark.parametrize("torn", [b"x", bytes(15), bytes(17)])
def test_torn_numbers_are_refused(torn: bytes) -> None:
    with pytest.raises(ValueError, match="length"):
        Ledger().add(torn)
    with pytest.raises(ValueError, match="length"):
        OffsetSet().add(torn)


def test_what_nothing_refers_to_cannot_be_removed() -> None:
    with pytest.raises(KeyError):
        Ledger().remove(ranges((0, 1)))


def test_gaps_are_what_no_range_covers() -> None:
    ledger = Ledger()
    ledger.add(ranges((50, 10), (10, 20), (20, 15), (60, 5)))
    assert ledger.gaps(100) == [(0, 10), (35, 50), (65, 100)]
    assert Ledger().gaps(100) == [(0, 100)]


@given(steps=st.lists(st.tuples(st.sampled_from(["add", "remove", "retain"]), offsets)))
def test_offsets_are_as_in_a_set(steps: list[tuple[str, set[int]]]) -> None:
    ours, model = OffsetSet(), set()
    for step, chosen in steps:
        if step == "add":
            assert unpacked(ours.add(ranges(*((o, 1) for o in chosen)))) == chosen & model
            model |= chosen
        elif step == "remove":
            assert unpacked(ours.remove(packed(chosen))) == chosen & model
            model -= chosen
        else:
            assert unpacked(ours.retain(packed(chosen))) == model - chosen
            model &= chosen
