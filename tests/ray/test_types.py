"""All Arrow types through Ray, by reference however small."""

import pyarrow as pa
import pytest
import ray
from hypothesis import HealthCheck, given, settings

from tests.helpers import arrow_strategies
from zerrow_ray import config

pytestmark = pytest.mark.usefixtures("cluster", "everything_by_reference")


@pytest.fixture(scope="module")
def everything_by_reference():
    config.plugin_config.cache_clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ZERROW_THRESHOLD", "0")
        assert config.plugin_config().threshold == 0
    pa.register_extension_type(arrow_strategies.PointType())
    yield
    pa.unregister_extension_type("zerrow.test.point")
    config.plugin_config.cache_clear()


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=arrow_strategies.tables())
def test_tables(data):
    got = ray.get(ray.put(data))
    got.validate(full=True)
    assert got.equals(data)
    assert got.schema.equals(data.schema, check_metadata=True)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=arrow_strategies.record_batches() | arrow_strategies.arrays())
def test_batches_and_arrays(data):
    got = ray.get(ray.put(data))
    got.validate(full=True)
    assert got.equals(data)
