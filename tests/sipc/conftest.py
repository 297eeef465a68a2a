"""Arrow's memory comes from the arena, and what a test pins is unpinned after it."""

from collections.abc import Iterator

import pyarrow as pa
import pytest

from tests.helpers import arrow_strategies
from tests.helpers.publishing import Publisher, capture_arrow


@pytest.fixture(autouse=True, scope="package")
def _captured() -> Iterator[None]:
    capture_arrow(True)
    pa.register_extension_type(arrow_strategies.PointType())
    yield
    pa.unregister_extension_type("zerrow.test.point")
    capture_arrow(False)


@pytest.fixture
def publisher() -> Iterator[Publisher]:
    made = Publisher()
    yield made
    made.close()
