"""An array of each type that is stored in a way of its own."""

import pyarrow as pa

EXAMPLES = {
    "dictionary": pa.array(["a", "b", "a", None]).dictionary_encode(),
    "dictionary in list": pa.ListArray.from_arrays(
        pa.array([0, 2, 3], pa.int32()), pa.array(["a", "b", "a"]).dictionary_encode()
    ),
    "run ends": pa.RunEndEncodedArray.from_arrays(pa.array([2, 5]), pa.array(["a", None])),
    "dense union": pa.UnionArray.from_dense(
        pa.array([0, 1, 0], pa.int8()),
        pa.array([0, 0, 1], pa.int32()),
        [pa.array([1, 2]), pa.array(["x"])],
    ),
    "sparse union": pa.UnionArray.from_sparse(
        pa.array([0, 1], pa.int8()), [pa.array([1, 2]), pa.array(["x", "y"])]
    ),
    "views": pa.array(["short", "a string that is too long for a view " * 3], pa.string_view()),
    "null": pa.nulls(7),
    "uuid": pa.array([b"0123456789abcdef", None], pa.uuid()),
    "decimal256": pa.array([None, 1], pa.decimal256(70, 3)),
    "intervals": pa.array([pa.MonthDayNano((1, 2, 3)), None]),
    "booleans": pa.array([True, None, False] * 30),
    "strings": pa.array(["a", None, "", "b" * 300], pa.large_string()),
    "list": pa.array([[1, 2], None, [], [3]], pa.large_list(pa.int16())),
    "list view": pa.array([[1, 2], None, [], [3]], pa.list_view(pa.int16())),
    "large list view": pa.array([["a"], None, [], ["b", None]], pa.large_list_view(pa.string())),
    "fixed size list": pa.array([[1, 2], None, [3, None]], pa.list_(pa.int8(), 2)),
    "struct": pa.array([{"x": 1, "y": ["a"]}, None, {"x": None, "y": None}]),
    "fixed size binary": pa.array([b"abc", None], pa.binary(3)),
    "map": pa.array([[("a", 1)], None, []], pa.map_(pa.string(), pa.int8())),
}
