"""What some versions of Ray cannot do, for tests that are skipped beside them."""

from importlib.util import find_spec

import pytest
import ray


def _has(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # of a package above it
        return False


HAS_KNOWN_RAY_DATA = _has("ray.data._internal.datasource_v2.formats.parquet")

needs_known_ray_data = pytest.mark.skipif(
    not HAS_KNOWN_RAY_DATA,
    reason=f"Ray {ray.__version__} reads Parquet files in a way that zerrow_ray.data does not know",
)
