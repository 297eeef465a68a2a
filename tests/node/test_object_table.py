"""The object table against a naive model: a list of objects, each with its set of allocations."""

import struct

import msgspec
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from zerrow_store.protocol import events
from zerrow_store.protocol.fields import Counters
from zerrow_store.server.object_table import ObjectTable

SEGMENTS = [bytes([i]) * 16 for i in range(3)]
SIZES = {offset: 64 * (1 + offset % 7) for offset in range(0, 640, 64)}

allocations = st.sets(
    st.tuples(st.sampled_from(SEGMENTS), st.sampled_from(sorted(SIZES))), max_size=8
)


def packed(chosen):
    by_segment = {}
    for segment, offset in sorted(chosen):
        by_segment.setdefault(segment, b"")
        by_segment[segment] += struct.pack("<QQ", offset, SIZES[offset])
    return list(by_segment.items())


class BooksAgainstModel(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.table = ObjectTable()
        self.model = {}
        self.names = {}
        self.proxies = set()
        for segment in SEGMENTS:
            self.table.apply(events.SegmentAdded(segment, 1 << 20, 1, 1))

    @rule(object_id=st.binary(min_size=1, max_size=2), chosen=allocations)
    def put(self, object_id, chosen):
        if object_id in self.model:
            return
        known = set().union(*self.model.values())
        expected = sum(SIZES[offset] for _, offset in chosen - known)
        assert self.table.new_bytes(packed(chosen)) == expected
        added = object_id, packed(chosen), None, False, None, Counters(1, 2, 3), 0.0
        self.table.apply(events.ObjectAdded(*added, pid=7))
        self.model[object_id] = chosen

    @rule(data=st.data(), reference=st.binary(min_size=1, max_size=2))
    def carried(self, data, reference):
        put_here = [i for i in sorted(self.model) if not self.table.objects[i].copy]
        if put_here:
            object_id = data.draw(st.sampled_from(put_here))
            self.table.apply(events.ObjectsCarried([object_id], reference))
            assert self.table.objects[object_id].reference == reference

    @rule(object_id=st.binary(min_size=1, max_size=2), name=st.sampled_from("abc"))
    def put_named(self, object_id, name):
        if object_id not in self.model:
            added = object_id, [], None, False, None, Counters(), 0.0
            self.table.apply(events.ObjectAdded(*added, name=name))
            self.model[object_id] = set()
            self.names[name] = object_id

    @rule(data=st.data())
    def hide(self, data):
        if not self.model:
            return
        object_id = data.draw(st.sampled_from(sorted(self.model)))
        self.table.apply(events.ObjectHidden(object_id))
        self.forget_name(object_id)

    def forget_name(self, object_id):
        self.names = {name: named for name, named in self.names.items() if named != object_id}

    @rule(data=st.data())
    def remove(self, data):
        if not self.model:
            return
        object_id = data.draw(st.sampled_from(sorted(self.model)))
        self.proxies.discard(object_id)
        self.forget_name(object_id)
        self.check_freed(
            self.model.pop(object_id), self.table.apply(events.ObjectRemoved(object_id))
        )

    @rule(object_id=st.binary(min_size=1, max_size=2))
    def put_proxy(self, object_id):
        if object_id not in self.model:
            added = object_id, [], None, False, SEGMENTS[0], Counters(), 0.0, b"reference"
            self.table.apply(events.ObjectAdded(*added, proxy=True))
            self.model[object_id] = set()
            self.proxies.add(object_id)

    @rule(object_id=st.binary(min_size=1, max_size=2), chosen=allocations, knows=st.booleans())
    def land(self, object_id, chosen, knows):
        there = self.table.objects.get(object_id)
        if there is None or there.is_elsewhere:
            moves = [(b"far_" * 4, 64, *each) for each in sorted(chosen)[:1]]
            node = b"node" if knows else None
            self.table.apply(events.CopyAdded(object_id, packed(chosen), moves, node, 0.0))
            self.model[object_id] = chosen
            assert self.table.objects[object_id].proxy == (object_id in self.proxies)

    @rule(data=st.data())
    def unland(self, data):
        landed = [i for i in sorted(self.proxies) if self.table.objects[i].copy]
        if landed:
            object_id = data.draw(st.sampled_from(landed))
            chosen, self.model[object_id] = self.model[object_id], set()
            self.check_freed(chosen, self.table.apply(events.CopyRemoved(object_id)))
            assert self.table.objects[object_id].is_elsewhere

    def check_freed(self, chosen, found):
        freed = [
            (segment, offset)
            for segment, offsets in found
            for (offset,) in struct.iter_unpack("<Q", offsets)
        ]
        assert set(freed) == chosen - set().union(*self.model.values())
        assert len(freed) == len(set(freed))

    @invariant()
    def every_byte_counts_once(self):
        held = set().union(*self.model.values())
        assert self.table.bytes_stored == sum(SIZES[offset] for _, offset in held)
        assert set(self.table.objects) == set(self.model)

    @invariant()
    def a_name_is_one_objects(self):
        assert self.table.names == self.names
        assert all(not self.table.objects[named].deleted for named in self.names.values())

    @invariant()
    def a_snapshot_makes_equal_books(self):
        copy = ObjectTable()
        for event in self.table.snapshot():
            copy.apply(events.decode(event.kind, msgspec.Raw(msgspec.msgpack.encode(event))))
        assert copy.objects == self.table.objects
        assert copy.names == self.table.names
        assert copy.segments == self.table.segments
        assert copy.counters == self.table.counters
        assert copy.bytes_stored == self.table.bytes_stored


TestBooks = BooksAgainstModel.TestCase
