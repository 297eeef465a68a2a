"""Where outputs are born: every buffer of Arrow's, NumPy's and pandas' results in the arena."""

import gc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.acero as acero
import pyarrow.compute as pc
import pyarrow.csv as csv
import pyarrow.dataset as ds
import pyarrow.feather as feather
import pyarrow.json as json
import pyarrow.parquet as pq
import pytest

from tests.helpers.python import run_python
from zerrow_store import memory
from zerrow_store.memory.buffers import allocate
from zerrow_store.native import _native

ROWS = 50_000


def buffers(value: Any) -> Iterator[pa.Buffer]:
    """Yield the buffers of Arrow data, those of dictionaries included."""
    if isinstance(value, pa.Table | pa.RecordBatch):
        for column in value.columns:
            yield from buffers(column)
    elif isinstance(value, pa.ChunkedArray):
        for chunk in value.chunks:
            yield from buffers(chunk)
    else:
        yield from (buffer for buffer in value.buffers() if buffer is not None and buffer.size)
        if isinstance(value, pa.DictionaryArray):
            yield from buffers(value.dictionary)


class Source:
    """Data made outside the arena, so that only outputs can lie in it."""

    def __init__(self, folder: Path) -> None:
        rng = np.random.default_rng(1)
        self.folder = folder
        self.x = rng.random(ROWS)
        self.k = rng.integers(0, 1000, ROWS)
        self.strings = [f"s{i % 777}" for i in range(ROWS)]
        self.table = pa.table({"k": self.k, "x": self.x, "s": self.strings})
        self.right = pa.table({"k": pa.array(range(1000)), "y": pa.array(range(1000))})
        self.frame = pd.DataFrame({"a": self.x, "b": self.k})
        pq.write_table(self.table, folder / "t.parquet")
        csv.write_csv(self.table, folder / "t.csv")
        feather.write_feather(self.table, folder / "t.feather", compression="lz4")
        with open(folder / "t.json", "w") as file:
            file.writelines(f'{{"a": {i}, "b": "{i}"}}\n' for i in range(5000))
        with pa.ipc.new_stream(str(folder / "t.arrows"), self.table.schema) as writer:
            writer.write_table(self.table)

    def path(self, name: str) -> str:
        return str(self.folder / name)


def scan(source: Source) -> pa.Table:
    return ds.dataset(source.path("t.parquet")).to_table(
        columns={"z": pc.field("x") + 1, "s": pc.field("s")}, filter=pc.field("k") > 500
    )


def project(source: Source) -> pa.Table:
    return acero.Declaration.from_sequence(
        [
            acero.Declaration("table_source", acero.TableSourceNodeOptions(source.table)),
            acero.Declaration("project", acero.ProjectNodeOptions([pc.field("x") * 2], ["x2"])),
        ]
    ).to_table()


CASES: dict[str, Callable[[Source], Any]] = {
    "add": lambda s: pc.add(s.table["x"], s.table["x"]),
    "filter mask": lambda s: s.table.filter(pc.greater(s.table["x"], 0.5)),
    "filter expression": lambda s: s.table.filter(pc.field("x") > 0.5),
    "take": lambda s: s.table.take(pa.array(s.k)),
    "sort_by": lambda s: s.table.sort_by("x"),
    "join": lambda s: s.table.join(s.right, "k"),
    "group_by": lambda s: s.table.group_by("s").aggregate([("x", "sum"), ("k", "max")]),
    "group_by many": lambda s: s.table.group_by("x").aggregate([("k", "sum")]),
    "acero project": project,
    "dataset parquet": lambda s: ds.dataset(s.path("t.parquet")).to_table(),
    "dataset scan": scan,
    "dataset csv": lambda s: ds.dataset(s.path("t.csv"), format="csv").to_table(),
    "read_table": lambda s: pq.read_table(s.path("t.parquet")),
    "read dictionary": lambda s: pq.read_table(s.path("t.parquet"), read_dictionary=["s"]),
    "read_csv": lambda s: csv.read_csv(s.path("t.csv")),
    "read_json": lambda s: json.read_json(s.path("t.json")),
    "feather": lambda s: feather.read_table(s.path("t.feather"), memory_map=False),
    "ipc file": lambda s: pa.ipc.open_stream(pa.OSFile(s.path("t.arrows"))).read_all(),
    "cast": lambda s: s.table["x"].cast(pa.float32()),
    "dictionary_encode": lambda s: s.table["s"].dictionary_encode(),
    "upper": lambda s: pc.utf8_upper(s.table["s"]),
    "combine_chunks": lambda s: pa.concat_tables([s.table, s.table]).combine_chunks(),
    "list": lambda s: pa.array([[1, 2, 3]] * 10_000),
    "python strings": lambda s: pa.array(s.strings),
    "numpy": lambda s: pa.array(np.sqrt(s.x) + 1),
    "numpy zeros": lambda s: pa.array(np.zeros(ROWS)),
    "numpy from_buffers": lambda s: pa.Array.from_buffers(
        pa.float64(), ROWS, [None, pa.py_buffer(s.x * 2)]
    ),
    "pandas": lambda s: pa.Table.from_pandas((s.frame * 2).sort_values("a")),
    "pandas groupby": lambda s: pa.Table.from_pandas(
        s.frame.groupby("a").sum().reset_index(), preserve_index=False
    ),
}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    memory.stop()
    return Source(tmp_path_factory.mktemp("source"))


@pytest.mark.usefixtures("captured")
@pytest.mark.parametrize("case", CASES)
def test_every_buffer_of_an_output_is_born_in_the_arena(source: Source, case: str) -> None:
    result = CASES[case](source)
    result.validate(full=True)
    born = list(buffers(result))
    outside = [buffer for buffer in born if not _native.ArenaProbe.contains(buffer.address)]
    assert born
    assert outside == []


def test_inputs_of_the_coverage_test_are_outside(source: Source) -> None:
    """Or the test above could not fail."""
    assert not any(_native.ArenaProbe.contains(buffer.address) for buffer in buffers(source.table))


def test_memory_stays_valid_after_switching_off() -> None:
    memory.start()
    inside = pa.array(range(100_000))
    array = np.arange(100_000)
    growing = pa.BufferOutputStream()
    growing.write(b"x" * 100_000)
    memory.stop()
    assert _native.captured() == {"arrow": False, "numpy": False}
    assert pa.default_memory_pool().backend_name != "zerrow"
    outside = pa.array(range(100_000))
    assert not _native.ArenaProbe.contains(outside.buffers()[1].address)
    assert not _native.ArenaProbe.contains(np.ones(100_000).ctypes.data)
    growing.write(b"y" * 10_000_000)  # grows memory of the arena into the original pool
    grown = growing.getvalue()
    assert grown.to_pybytes() == b"x" * 100_000 + b"y" * 10_000_000
    assert inside.equals(outside)
    array.resize(200_000, refcheck=False)
    assert array[:100_000].tolist() == list(range(100_000))
    assert not array[100_000:].any()
    del inside, outside, array, growing, grown


def test_memory_of_the_original_allocators_is_taken_over() -> None:
    memory.stop()
    growing = pa.BufferOutputStream()
    growing.write(b"x" * 100_000)
    array = np.arange(100_000)
    memory.start()
    growing.write(b"y" * 1_000_000)
    grown = growing.getvalue()
    assert _native.ArenaProbe.contains(grown.address)
    assert grown.to_pybytes() == b"x" * 100_000 + b"y" * 1_000_000
    array.resize(200_000, refcheck=False)
    assert array[99_999] == 99_999
    del array, grown, growing
    memory.stop()


@pytest.mark.usefixtures("captured")
def test_arrow_counts_what_it_allocates() -> None:
    gc.collect()
    pool = pa.default_memory_pool()
    assert pool.backend_name == "zerrow"
    before, live = pa.total_allocated_bytes(), _native.arena_stats()["live"]
    held = [allocate(size, resizable=True) for size in (0, 100, 50_000, 10 << 20)]
    assert pa.total_allocated_bytes() - before == sum(-(-b.size // 64) * 64 for b in held)
    assert pool.max_memory() >= pool.bytes_allocated()
    held[3].resize(1000, shrink_to_fit=True)
    held[1].resize(1 << 20)
    assert pa.total_allocated_bytes() - before == _native.arena_stats()["live"] - live
    del held
    assert pa.total_allocated_bytes() == before
    pool.release_unused()
    assert _native.arena_stats()["warm"] == 0


@pytest.mark.usefixtures("captured")
def test_pools_asked_for_by_name_are_left_alone() -> None:
    pool = pa.system_memory_pool()
    assert pool.backend_name == "system"
    assert not _native.ArenaProbe.contains(pa.allocate_buffer(1 << 20, memory_pool=pool).address)
    counting = pa.proxy_memory_pool(pa.default_memory_pool())
    buffer = pa.allocate_buffer(1 << 20, counting)
    assert counting.bytes_allocated() == buffer.size
    del buffer  # before its pool
    with pytest.raises(TypeError, match="got str"):
        pa.allocate_buffer(1 << 20, "system")


@pytest.mark.usefixtures("captured")
def test_numpy_arrays_share_no_page() -> None:
    arrays = [np.ones(40_000, np.uint8) for _ in range(20)]
    assert all(array.ctypes.data % 4096 == 0 for array in arrays)
    small = np.ones(1000, np.uint8)
    assert not _native.ArenaProbe.contains(small.ctypes.data)


@pytest.mark.usefixtures("captured")
def test_numpy_realloc_keeps_contents() -> None:
    array = np.arange(10_000, dtype=np.int64)
    for count in (5_000, 1_000_000, 2_000, 100, 300_000):
        kept = min(count, array.size)
        expected = array[:kept].copy()
        array.resize(count, refcheck=False)
        assert (array[:kept] == expected).all()
        assert not array[kept:].any()


def test_memory_is_freed_after_the_interpreter_has_gone() -> None:
    run_python(
        """
        import numpy as np, pyarrow as pa, threading, time
        from zerrow_store import memory
        memory.start()
        class Cycle: pass
        kept = Cycle(); kept.me = kept
        kept.arrow = pa.array(range(100_000)); kept.numpy = np.ones(100_000)
        pa.compute.sum(kept.arrow)
        def work():
            while True: pa.array(range(10_000)); np.ones(10_000)
        threading.Thread(target=work, daemon=True).start()
        time.sleep(0.2)
        """
    )


def test_an_unexpected_numpy_handler_is_refused() -> None:
    out = run_python(
        """
        import ctypes, importlib, logging, sys
        logging.basicConfig(stream=sys.stdout, format="%(message)s")
        import numpy as np
        from zerrow_store import memory
        numpy_core = "numpy._core" if np.__version__ >= "2" else "numpy.core"
        core = importlib.import_module(f"{numpy_core}._multiarray_umath")
        get = ctypes.pythonapi.PyCapsule_GetPointer
        get.restype, get.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
        table = get(core._ARRAY_API, None)
        variable = ctypes.cast(table, ctypes.POINTER(ctypes.c_void_p))[306]
        default = ctypes.c_void_p.from_address(variable).value
        handler = get(ctypes.cast(default, ctypes.py_object).value, b"mem_handler")
        assert ctypes.string_at(handler) == b"default_allocator"
        ctypes.memmove(handler, b"somebody", 9)
        assert memory.start() == {"arrow": True, "numpy": False}
        assert np.ones(100_000).sum() == 100_000
        ctypes.memmove(handler, b"default_allocator", 18)
        """
    )
    assert out.startswith("NumPy allocates outside of the arena")
    assert "somebody" in out
