"""A pytest plugin that switches the captures on before pyarrow's tests are collected."""

from zerrow_store import memory

CAPTURED = memory.start()
assert CAPTURED == {"arrow": True, "numpy": True}, CAPTURED
