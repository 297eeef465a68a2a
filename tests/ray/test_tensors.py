"""Columns as torch tensors: the store's memory, which nobody can write to through them."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import ray

import zerrow_ray

torch = pytest.importorskip("torch")

pytestmark = pytest.mark.usefixtures("cluster")

ROWS = 500_000
TYPES = [
    *(pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8()),
    *(pa.float16(), pa.float32(), pa.float64()),
]


def table() -> pa.Table:
    numbers = pa.array(np.arange(ROWS) % 100)
    return pa.table({str(t): numbers.cast(pa.float32()).cast(t) for t in TYPES})


def in_a_mapped_file(tensor: "torch.Tensor") -> bool:
    """Whether the kernel says that a tensor's memory is a private, writable mapping of a file."""
    with open("/proc/self/maps") as maps:
        for line in maps:
            start, end = (int(each, 16) for each in line.split()[0].split("-"))
            if start <= tensor.data_ptr() < end:
                return line.split()[1].startswith("rw-p") and int(line.split()[4]) > 0
    return False


def test_numeric_columns_are_not_copied() -> None:
    got = ray.get(ray.put(table()))
    tensors = zerrow_ray.to_torch(got)
    assert list(tensors) == got.column_names
    for type_, (name, tensor) in zip(TYPES, tensors.items(), strict=True):
        assert str(tensor.dtype).removeprefix("torch.") in (
            str(type_),
            {"halffloat": "float16", "float": "float32", "double": "float64"}.get(str(type_)),
        )
        assert tensor.shape == (ROWS,)
        assert tensor.tolist() == got[name].to_pylist()
        assert in_a_mapped_file(tensor)


def test_a_write_reaches_neither_the_table_nor_the_store() -> None:
    ref = ray.put(table())
    got = ray.get(ref)
    for tensor in zerrow_ray.to_torch(got).values():
        tensor.fill_(7)
        assert tensor.sum(dtype=torch.float64).item() == 7 * ROWS
    assert got.equals(table())

    @ray.remote
    def read(seen):
        return seen.equals(table())

    assert ray.get(read.remote(ref))


@ray.remote
def write(seen):
    tensors = zerrow_ray.to_torch(seen)
    for tensor in tensors.values():
        tensor.zero_()
    return sum(int(tensor.sum()) for tensor in tensors.values())


def test_tasks_write_side_by_side() -> None:
    ref = ray.put(table())
    assert ray.get([write.remote(ref) for _ in range(4)]) == [0] * 4
    assert ray.get(ref).equals(table())


def test_it_outlives_its_table() -> None:
    tensor = zerrow_ray.to_torch(ray.get(ray.put(table()))["int64"])
    others = [table() for _ in range(3)]
    assert int(tensor.sum()) == pc.sum(table()["int64"]).as_py()
    del others


def test_lists_of_a_fixed_size_have_two_dimensions() -> None:
    values = pc.add(pa.array(np.arange(2 * ROWS)), 0)
    lists = pa.FixedSizeListArray.from_arrays(values, 4)
    got = ray.get(ray.put(pa.table({"e": lists})))["e"].chunk(0)
    tensor = zerrow_ray.to_torch(got)
    assert tensor.shape == (ROWS // 2, 4)
    assert in_a_mapped_file(tensor)
    part = zerrow_ray.to_torch(got.slice(3, 2))
    assert part.tolist() == [[12, 13, 14, 15], [16, 17, 18, 19]]
    assert zerrow_ray.to_torch(got.slice(0, 0)).shape == (0, 4)


def test_chunks_slices_and_empty_columns() -> None:
    chunked = pa.chunked_array([[1, 2], [3]])
    assert zerrow_ray.to_torch(chunked).tolist() == [1, 2, 3]
    assert zerrow_ray.to_torch(pa.array([1.5, 2.5, 3.5]).slice(1, 1)).tolist() == [2.5]
    empty = zerrow_ray.to_torch(pa.chunked_array([], pa.float32()))
    assert (empty.dtype, empty.shape) == (torch.float32, (0,))
    batch = pa.record_batch({"x": [1], "y": [2.0]})
    assert {n: t.tolist() for n, t in zerrow_ray.to_torch(batch).items()} == {"x": [1], "y": [2.0]}


def test_what_torch_cannot_have() -> None:
    with pytest.raises(ValueError, match=r"x has nulls.*fill or drop"):
        zerrow_ray.to_torch(pa.table({"x": [1, None]}))
    with pytest.raises(ValueError, match="nulls"):
        zerrow_ray.to_torch(pa.array([[1, 2], None], pa.list_(pa.int32(), 2)))
    with pytest.raises(ValueError, match="nulls"):
        zerrow_ray.to_torch(pa.array([[1, None]], pa.list_(pa.int32(), 2)))
    for wrong in ["a"], [True], [[1]]:
        with pytest.raises(TypeError, match=r"x: torch has no tensors of .*: cast it first"):
            zerrow_ray.to_torch(pa.table({"x": wrong}))
    with pytest.raises(TypeError, match="Arrow data is needed, not list"):
        zerrow_ray.to_torch([1, 2])
    twice = pa.table([pa.array([1]), pa.array([2])], names=["x", "x"])
    with pytest.raises(ValueError, match="same name"):
        zerrow_ray.to_torch(twice)
