"""How what objects leave of the budget is shared out to those that make tables."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from zerrow_store.server.producer_quota import Held, bounds

MIB = 1 << 20
A, B = b"a", b"b"


PRODUCER = st.sampled_from([bytes([n]) for n in range(6)])
NBYTES = st.integers(0, 1 << 30)


@given(st.dictionaries(PRODUCER, st.builds(Held, NBYTES, NBYTES)), st.sets(PRODUCER), NBYTES)
def test_parts_are_no_more_than_the_room(
    held: dict[bytes, Held], resting: set[bytes], room: int
) -> None:
    parts = bounds(held, resting, room)
    assert parts.keys() == held.keys()
    assert all(part >= 0 for part in parts.values())
    # All of it is given, but for what cannot be divided.
    assert held == {} or room - len(held) < sum(parts.values()) <= room
    if sum(2 * (each.passing + each.unpublished) + room // 8 for each in held.values()) <= room:
        assert all(parts[producer] >= held[producer].unpublished for producer in held)


@given(st.dictionaries(PRODUCER, st.builds(Held, NBYTES, NBYTES)), NBYTES)
def test_who_works_has_no_less_than_another_unless_of_what_it_has(
    held: dict[bytes, Held], room: int
) -> None:
    parts = bounds(held, set(), room)
    for one, other in itertools.permutations(held, 2):
        is_more = parts[one] + held[one].passing > parts[other] + held[other].passing + len(held)
        # It has twice what it had and more, or the objects of the other one fill its part.
        twice = 2 * (held[other].passing + held[other].unpublished) + room // 8
        assert not is_more or parts[other] >= twice or parts[one] <= len(held)


def test_who_rests_gives_way_to_who_works() -> None:
    held = {A: Held(0, 64 * MIB), B: Held(0, 64 * MIB)}
    assert bounds(held, {B}, 131 * MIB)[A] == 131 * MIB
    # Where there is room for both, nobody gives up anything.
    roomy = bounds(held, {B}, 1024 * MIB)
    assert roomy[A] >= 128 * MIB
    assert roomy[B] >= 64 * MIB


def test_two_that_take_turns_both_stay_warm() -> None:
    """Each takes 128 MiB to make 64, which is held while the other one works."""
    room = 256 * MIB
    for stored_by_a, stored_by_b in itertools.product((0, 64 * MIB), repeat=2):
        # Whatever was warm before.
        for excess in range(0, 80 * MIB, 16 * MIB):
            held = {
                A: Held(stored_by_a, 128 * MIB - stored_by_a + excess),
                B: Held(stored_by_b, max(0, 128 * MIB - stored_by_b - excess)),
            }
            parts = bounds(held, set(), room - stored_by_a - stored_by_b)
            assert parts == {A: 128 * MIB - stored_by_a, B: 128 * MIB - stored_by_b}


def test_who_makes_little_leaves_the_rest_to_who_makes_much() -> None:
    parts = bounds({A: Held(0, 4 * MIB), B: Held(0, 90 * MIB)}, set(), 128 * MIB)
    assert parts == {A: 24 * MIB, B: 104 * MIB}
