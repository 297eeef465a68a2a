"""How what objects leave of the budget is shared out to those that make tables."""

from hypothesis import given
from hypothesis import strategies as st

from zerrow_store.node.producers import bounds

MIB = 1 << 20
A, B, C = b"a", b"b", b"c"


@given(
    st.dictionaries(st.sampled_from([bytes([n]) for n in range(6)]), st.integers(0, 1 << 30)),
    st.sets(st.sampled_from([bytes([n]) for n in range(6)])),
    st.integers(0, 1 << 30),
)
def test_parts_are_no_more_than_the_room(
    held: dict[bytes, int], resting: set[bytes], room: int
) -> None:
    parts = bounds(held, resting, room)
    assert parts.keys() == held.keys()
    assert all(part >= 0 for part in parts.values())
    # All of it is given, but for what cannot be divided.
    assert held == {} or room - len(held) < sum(parts.values()) <= room
    working = [producer for producer in held if producer not in resting]
    if sum(held[producer] for producer in working) <= room:
        assert all(parts[producer] >= held[producer] for producer in working)
    if sum(2 * held[producer] + room // 8 for producer in held) <= room:
        assert all(parts[producer] >= held[producer] for producer in held)


def test_who_rests_gives_way_to_who_works() -> None:
    held = {A: 64 * MIB, B: 64 * MIB}
    assert bounds(held, {B}, 131 * MIB)[A] == 131 * MIB
    # Where there is room for both, nobody gives up anything.
    roomy = bounds(held, {B}, 1024 * MIB)
    assert roomy[A] >= 128 * MIB
    assert roomy[B] >= 64 * MIB


def test_the_largest_keeps_what_it_has_where_it_is_too_much_for_all() -> None:
    parts = bounds({A: 10 * MIB, B: 90 * MIB, C: 50 * MIB}, set(), 100 * MIB)
    assert parts == {A: 0, B: 90 * MIB, C: 10 * MIB}
