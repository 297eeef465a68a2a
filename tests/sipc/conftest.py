"""Arrow's memory comes from the arena, and what a test pins is unpinned after it."""

import struct
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pytest

from tests import arrow_strategies
from zerrow_store.native import _native


@pytest.fixture(autouse=True, scope="package")
def _captured() -> Iterator[None]:
    _native.capture_arrow(True)
    pa.register_extension_type(arrow_strategies.PointType())
    yield
    pa.unregister_extension_type("zerrow.test.point")
    _native.capture_arrow(False)


class Publisher:
    """Encodes, and keeps the books that a node store would keep."""

    def __init__(self) -> None:
        self._own: list[bytes] = []

    def encode(self, data: object) -> _native.Encoded:
        return self._took(_native.encode(data))

    def encode_buffers(self, header: bytes, buffers: list[object]) -> _native.Encoded:
        return self._took(_native.encode_buffers(header, buffers))

    def trip(self, data: object, owner: object = None) -> Any:
        return _native.decode(self.encode(data).message, owner)

    def close(self) -> None:
        for own in self._own:
            _native.unpin(b"".join(struct.pack("<Q", offset) for offset, _ in ranges(own)))
        self._own.clear()

    def _took(self, encoded: _native.Encoded) -> _native.Encoded:
        self._own.append(encoded.own)
        return encoded


def ranges(packed: bytes) -> list[tuple[int, int]]:
    return list(struct.iter_unpack("<QQ", packed))


@pytest.fixture
def publisher() -> Iterator[Publisher]:
    made = Publisher()
    yield made
    made.close()
