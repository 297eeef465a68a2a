"""An owner lives exactly as long as views of its data do."""

import gc
import subprocess
import sys
import textwrap
import threading
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tests.helpers.publishing import Publisher
from zerrow_store.native import _native


class Owner:
    """Something that a weak reference can watch."""


@pytest.mark.parametrize(
    "view",
    [
        lambda table: table,
        lambda table: table.slice(5, 1),
        lambda table: table.column("s").chunk(0).slice(7, 1),
        lambda table: table.column("a").chunk(0).to_numpy()[3:4],
        lambda table: table.column("a").chunk(0).buffers()[1],
        lambda table: pa.py_buffer(memoryview(table.column("a").chunk(0).buffers()[1])[8:16]),
        lambda table: _native.encode(table),
    ],
    ids=["table", "slice", "array", "numpy", "buffer", "memoryview", "encoded"],
)
def test_owner_lives_as_long_as_a_view(publisher: Publisher, view: Callable[[Any], Any]) -> None:
    table = pa.table({"a": pa.array(range(5000)), "s": pa.array([str(i) for i in range(5000)])})
    owner = Owner()
    watch = weakref.ref(owner)
    kept = view(publisher.trip(table, owner))
    del owner
    gc.collect()
    assert watch() is not None
    del kept
    assert watch() is None


def test_owner_goes_with_a_refused_message(publisher: Publisher) -> None:
    message = publisher.encode(pa.array(range(100))).message
    for bad in (message[:-1], b""):
        owner = Owner()
        watch = weakref.ref(owner)
        with pytest.raises(_native.SipcError):
            _native.decode(bad, owner)
        del owner
        assert watch() is None
    owner = Owner()
    watch = weakref.ref(owner)
    with pytest.raises(_native.SipcError, match="relocation"):
        _native.decode(message, owner, [])
    del owner
    assert watch() is None


def test_owner_of_a_view_and_of_buffers(publisher: Publisher) -> None:
    data = np.arange(10_000)
    message = publisher.encode_buffers(b"", [data]).message
    owner = Owner()
    watch = weakref.ref(owner)
    _, (buffer,) = _native.decode(message, owner)
    segment, offset, size = _native.message_allocations(message)[0]
    again = _native.view(segment, offset, size, owner)
    del owner
    assert np.array_equal(np.frombuffer(buffer, np.int64), data)
    del buffer
    assert watch() is not None
    assert again.to_pybytes()[: data.nbytes] == data.tobytes()
    del again
    assert watch() is None


def test_other_threads_let_go_and_look_up(publisher: Publisher) -> None:
    message = publisher.encode(pa.table({"a": pa.array(range(5000))})).message
    errors: list[BaseException] = []
    watches: list[weakref.ref[Owner]] = []

    def work() -> None:
        try:
            for _ in range(200):
                owner = Owner()
                watches.append(weakref.ref(owner))
                array = _native.decode(message, owner).column("a").chunk(0).to_numpy()
                del owner
                assert _native.encode(pa.array(array)).own == b""
                del array
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    # Not sooner: an encoded message may hold what another thread decoded of the same bytes.
    assert [watch() for watch in watches if watch() is not None] == []


def test_data_may_outlive_the_interpreter() -> None:
    script = """
        import sys
        import pyarrow as pa
        from zerrow_store.native import _native
        _native.capture_arrow(True)
        class Owner: pass
        table = pa.table({"a": pa.array(range(5000))})
        sys.kept = _native.decode(_native.encode(table).message, Owner())
        pa.kept = [sys.kept, sys.kept.column("a").chunk(0).to_numpy()]
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")
