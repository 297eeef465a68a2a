"""The books against a naive model that recounts everything, and replicas made in every way."""

import struct
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from zerrow_store.node.books import Books

SEGMENTS = [b"a" * 16, b"b" * 16, b"c" * 16]
# An allocation's size never changes while it is in the books.
SIZES = {offset: 100 + offset for offset in range(0, 4096, 512)}


def pack(offsets: list[int]) -> bytes:
    return b"".join(struct.pack("<QQ", offset, SIZES[offset]) for offset in offsets)


Model = dict[bytes, set[tuple[bytes, int]]]


class BooksAgainstModel(RuleBasedStateMachine):
    """The model: for each object the set of its allocations, and nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.books, self.replica = Books(), Books()
        self.model: Model = {}
        self.hidden: set[bytes] = set()
        self.counted = [0, 0, 0]
        for segment in SEGMENTS:
            self.change("segment", [segment, 1 << 20, 7, 9])

    def change(self, kind: str, body: list[Any]) -> list[tuple[bytes, int]]:
        freed = self.books.apply(kind, body)
        assert self.replica.apply(kind, body) == freed
        return freed

    @rule(
        object_id=st.binary(min_size=1, max_size=1),
        refers=st.dictionaries(
            st.sampled_from(SEGMENTS), st.sets(st.sampled_from(sorted(SIZES)), min_size=1)
        ),
        counters=st.lists(st.integers(0, 99), min_size=3, max_size=3),
    )
    def put(self, object_id: bytes, refers: dict[bytes, set[int]], counters: list[int]) -> None:
        if object_id in self.model:
            return
        packed = [(segment, pack(sorted(offsets))) for segment, offsets in refers.items()]
        refered = {(segment, offset) for segment, offsets in refers.items() for offset in offsets}
        new = refered - self.live()
        assert self.books.new_bytes(packed) == sum(SIZES[offset] for _, offset in new)
        assert not self.change("put", [object_id, packed, b"m", False, None, counters, 1.5])
        self.model[object_id] = refered
        self.counted = [a + b for a, b in zip(self.counted, counters, strict=True)]

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        object_id = data.draw(st.sampled_from(sorted(self.model)))
        freed = self.change("remove", [object_id])
        gone = self.model.pop(object_id) - self.live()
        self.hidden.discard(object_id)
        assert sorted(freed) == sorted(gone)

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def hide(self, data: st.DataObject) -> None:
        object_id = data.draw(st.sampled_from(sorted(self.model)))
        assert not self.change("hide", [object_id])
        self.hidden.add(object_id)

    @rule()
    def hand_over(self) -> None:
        """A server or supervisor starts again from the other's books."""
        self.replica = Books()
        for kind, body in self.books.snapshot():
            self.replica.apply(kind, body)

    def live(self) -> set[tuple[bytes, int]]:
        return set().union(*self.model.values())

    @invariant()
    def agree(self) -> None:
        for books in (self.books, self.replica):
            assert books.bytes_stored == sum(SIZES[offset] for _, offset in self.live())
            assert books.objects.keys() == self.model.keys()
            assert {o for o, entry in books.objects.items() if entry.deleted} == self.hidden
            assert list(books.counters.values()) == self.counted
            referred = {
                (segment_id, offset): references
                for segment_id, segment in books.segments.items()
                for offset, references in segment.references.items()
            }
            assert referred == {
                (segment, offset): [
                    SIZES[offset],
                    sum((segment, offset) in refers for refers in self.model.values()),
                ]
                for segment, offset in self.live()
            }


TestBooks = BooksAgainstModel.TestCase
TestBooks.settings = settings(deadline=None, max_examples=50, stateful_step_count=30)


def test_an_object_that_names_an_allocation_twice_leaves_nothing() -> None:
    books = Books()
    books.apply("segment", [SEGMENTS[0], 1 << 20, 7, 9])
    twice = struct.pack("<4Q", 0, 100, 0, 200)
    books.apply("put", [b"x", [(SEGMENTS[0], twice)], None, False, None, [0, 0, 0], 0.0])
    assert books.apply("remove", [b"x"]) == [(SEGMENTS[0], 0)]
    assert books.bytes_stored == 0
    assert books.segments[SEGMENTS[0]].references == {}
