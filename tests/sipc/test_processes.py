"""Encoding where the arena is full, where nothing is captured, and after a fork."""

from tests.helpers.python import run_python


def run(script: str) -> None:
    assert run_python(script, warnings="error") == "done\n"


def test_a_copy_that_does_not_fit_is_a_memory_error() -> None:
    run("""
        import pyarrow as pa
        from zerrow_store.native import _native
        _native.configure_arena(capacity=64 << 20, warm_limit=0, decay_ms=1000)
        large = pa.Array.from_buffers(pa.int8(), 100 << 20, [None, pa.py_buffer(bytes(100 << 20))])
        small = pa.Array.from_buffers(pa.int8(), 1 << 20, [None, pa.py_buffer(bytes(1 << 20))])
        try:
            _native.encode(pa.chunked_array([small, large]))
        except MemoryError as error:
            assert str(100 << 20) in str(error), error
        else:
            raise AssertionError("it fitted")
        # What was copied before it failed is not left behind.
        assert _native.arena_stats()["pinned"] == 0
        assert _native.encode(small).bytes_copied == 1 << 20
        print("done")
    """)


def test_without_capture_everything_is_copied_once() -> None:
    run("""
        import pyarrow as pa
        from zerrow_store.native import _native
        table = pa.table({"a": pa.array(range(1000)), "b": pa.array(["x"] * 1000)})
        encoded = _native.encode(table)
        assert encoded.bytes_shared == 0 and encoded.bytes_copied >= table.nbytes
        decoded = _native.decode(encoded.message, None)
        assert decoded.equals(table)
        again = _native.encode(decoded)
        assert again.bytes_copied == 0 and again.own == b""
        print("done")
    """)


def test_a_forked_child_encodes_and_reads() -> None:
    run("""
        import os
        import pyarrow as pa
        from zerrow_store.native import _native
        _native.capture_arrow(True)
        table = pa.table({"a": pa.array(range(10_000))})
        decoded = _native.decode(_native.encode(table).message, None)
        segment = _native.arena_segment()[0]
        child = os.fork()
        if child == 0:
            assert _native.arena_segment()[0] != segment
            assert decoded.equals(table)
            # Decoded data is referred to as ever; the parent's own memory is none of the child's.
            assert _native.encode(decoded).foreign[0][0] == segment
            encoded = _native.encode(table)
            assert encoded.bytes_shared == 0 and encoded.bytes_copied > 0
            again = _native.decode(encoded.message, None)
            os._exit(0 if again.equals(table) else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert decoded.equals(table)
        print("done")
    """)
