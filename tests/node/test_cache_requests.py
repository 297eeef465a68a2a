"""The cache's requests and its index: against a naive model, and from peers that do not behave."""

import math
import os
import random

import pyarrow as pa
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tests.helpers.peers import Peer
from zerrow_store.protocol import events, framing
from zerrow_store.protocol.fields import Counters
from zerrow_store.server.object_table import ObjectTable

FILES = [b"one", b"two", b"three"]
PATHS = ["/a", "/b"]
UNITS = [("parquet", "x"), ("parquet", "y"), ("csv", "*")]


class IndexAgainstModel(RuleBasedStateMachine):
    """The model: per object, the file, the path, the unit and the parts that it holds."""

    def __init__(self):
        super().__init__()
        self.table = ObjectTable()
        self.model = {}

    @rule(
        object_id=st.binary(min_size=1, max_size=2),
        file=st.sampled_from(FILES),
        path=st.sampled_from(PATHS),
        unit=st.sampled_from(UNITS),
        parts=st.sets(st.integers(0, 5), min_size=1),
    )
    def add(self, object_id, file, path, unit, parts):
        taken = {p for f, _, u, ps in self.model.values() if (f, u) == (file, unit) for p in ps}
        if object_id in self.table.objects or taken & parts:
            return
        added = events.ObjectAdded(object_id, [], b"message", False, None, Counters(), 0.0)
        layout = [(part, 1) for part in sorted(parts)]
        self.table.apply(events.ColumnAdded(added, file, path, unit, layout, 1.0, 0, 0.0))
        self.model[object_id] = (file, path, unit, parts)

    @rule(data=st.data(), event=st.sampled_from([events.ObjectRemoved, events.ObjectHidden]))
    def take_out(self, data, event):
        if self.model:
            object_id = data.draw(st.sampled_from(sorted(self.model)))
            self.table.apply(event(object_id))
            del self.model[object_id]

    @rule(data=st.data())
    def use(self, data):
        if self.model:
            object_id = data.draw(st.sampled_from(sorted(self.model)))
            before = self.table.cache.entries[object_id].hits
            self.table.apply(events.ColumnsRead([object_id, b"unknown"], 7.0))
            assert self.table.cache.entries[object_id].hits == before + 1

    @invariant()
    def the_index_finds_what_is_there(self):
        for file in FILES:
            for unit in UNITS:
                expected = {
                    part: object_id
                    for object_id, (f, _, u, parts) in self.model.items()
                    if (f, u) == (file, unit)
                    for part in parts
                }
                assert self.table.cache.parts(file, unit) == expected
        assert set(self.table.cache.objects_at(None)) == set(self.model)
        for path in PATHS:
            files = {f for f, p, _, _ in self.model.values() if p == path}
            expected = {o for o, (f, *_) in self.model.items() if f in files}
            assert set(self.table.cache.objects_at(path)) == expected

    @invariant()
    def a_snapshot_makes_an_equal_index(self):
        copy = ObjectTable()
        for event in self.table.snapshot():
            copy.apply(event)
        assert copy.objects == self.table.objects
        assert copy.cache.entries == self.table.cache.entries
        assert copy.cache._parts == self.table.cache._parts


TestIndex = IndexAgainstModel.TestCase

COLUMN = [["v", "c"], [[0, 1]], 1.0, b"id", b"", [], b"message", [0, 0, 0]]


def column(**changed):
    names = ["unit", "layout", "seconds", "object_id", "own", "foreign", "message", "counters"]
    return [changed.get(name, value) for name, value in zip(names, COLUMN, strict=True)]


@pytest.mark.parametrize(
    "request_",
    [
        ("cache_open", [b"t", b"f", "/p", [[["v", "c"], [0]]]]),
        ("cache_open", [b"t", b"f", b"/p", [], 1]),
        ("cache_open", [b"t", "f", "/p", [], 1]),
        ("cache_open", [b"t", b"f", "/p", [[["v"], [0]]], 1]),
        ("cache_open", [b"t", b"f", "/p", [[["v", "c"], ["0"]]], 1]),
        ("cache_open", [b"t", b"f", "/p", [[["v", "c"], [[0]]]], 1]),
        ("cache_open", [b"t", b"f", "/p", [[["v", "c"], [0]]], "many"]),
        ("cache_open", [b"t", b"f", "/p", [[["v", "c"], [0]]], math.inf]),
        ("cache_open", [b"t", b"f", "/p", [[["v", "c"], [0]]], 0]),
        ("cache_publish", [b"t", b"f", "/p", [column(layout=[])]]),
        ("cache_publish", [b"t", b"f", "/p", [column(layout=[[0, 1], [0, 1]])]]),
        ("cache_publish", [b"t", b"f", "/p", [column(layout=[[0, -1]])]]),
        ("cache_publish", [b"t", b"f", "/p", [column(seconds="1")]]),
        ("cache_publish", [b"t", b"f", "/p", [column(message=None)]]),
        ("cache_publish", [b"t", b"f", "/p", [column(own=bytes(16))]]),
        ("cache_publish", [b"t", b"f", "/p", [column(own=b"odd")]]),
        ("cache_publish", [b"t", b"f", "/p", [column(object_id=5)]]),
        ("cache_publish", [b"t", b"f", "/p", [column(counters=[-1, 0, 0])]]),
        ("cache_fail", [b"t", b"f", [[["v", "c"], [0]]], ["just a name"]]),
        ("cache_fail", [b"t", b"f", "x", ["a", "b"]]),
        ("cache_release", []),
        ("cache_list", [1]),
        ("cache_drop", [[]]),
    ],
    ids=str,
)
def test_malformed_requests_are_refused(peer, bystander, request_):
    assert peer.refused(*request_)
    assert bystander.cache_list() == []


def test_random_requests(name, bystander):
    rng = random.Random(os.urandom(8))
    kinds = ["open", "publish", "fail", "release", "list", "drop"]

    def value(depth=0):
        flat = [b"t", b"f", "/p", "v", 0, 1, -1, 2**62, 0.5, math.nan, math.inf, None, True]
        if depth > 3 or rng.random() < 0.5:
            return rng.choice(flat)
        return [value(depth + 1) for _ in range(rng.randrange(5))]

    for _ in range(300):
        raw = Peer(name)
        for _ in range(3):
            kind, body = rng.choice(kinds), [value() for _ in range(rng.randrange(6))]
            try:
                framing.send(raw.socket, framing.pack(f"cache_{kind}", 1, body))
            except OSError:
                break
        raw.close()
    assert bystander.stats().objects == 1


def test_what_is_published_damaged_is_decoded_again(name, client, tmp_path):
    """A message that is none fails nobody's read."""
    import pyarrow.parquet as pq

    from zerrow_store.decache import read_parquet
    from zerrow_store.decache.files import LocalFile

    path = tmp_path / "f.parquet"
    table = pa.table({"x": range(100)})
    pq.write_table(table, path)
    file = LocalFile(str(path))
    raw = Peer(name)
    bad = column(unit=["parquet", "x"], object_id=os.urandom(16))
    assert raw.ask("cache_publish", [b"t", file.identity, str(path), [bad]])[2] == [True]
    file.close()
    assert read_parquet(path, client=client).equals(table)
    raw.close()
