"""The plugin is switched on by what travels; a worker that has no use for it loads nothing."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import ray
import ray.cloudpickle

import zerrow_ray
from tests.helpers.python import run_python
from tests.helpers.rays import RAY_OPTIONS, Moved, total
from zerrow_ray import ray_compat

pytestmark = pytest.mark.usefixtures("cluster")

ROWS = 1_000_000


@ray.remote(max_calls=1)
def loaded():
    import sys

    heavy = (
        "numpy",
        "pyarrow",
        "zerrow_ray.session",
        "zerrow_store.native",
        "zerrow_store.client.client",
    )
    return "zerrow_ray.activation" in sys.modules, [m for m in heavy if m in sys.modules]


def test_a_worker_without_tables_loads_nothing():
    """This module imports NumPy, so what the task loads travels by value."""
    function = ray.remote(max_calls=1)(by_value(loaded._function))
    assert ray.get(function.remote()) == (True, [])


def by_value(function):
    """Make a copy of a function that cloudpickle does not look up in its module."""
    import types

    return types.FunctionType(function.__code__, {"__name__": "__main__"}, function.__name__)


FIRST_IMPORTS = [
    "pyarrow",
    "pandas",
    "polars; import pyarrow",
    "pyarrow.parquet",
    "zerrow_store.client.client",
    "zerrow_store.memory",
    "zerrow_store.decache",
    "zerrow_ray.messages",
    "zerrow_ray.tables",
    "zerrow_ray.session",
    "zerrow_ray.reading",
    "zerrow_ray.dag",
]


@pytest.mark.parametrize("first", FIRST_IMPORTS)
def test_captures_are_on_whatever_is_imported_first(first):
    body = f"""
def body():
    import {first}
    from zerrow_store.native import _native
    return _native.captured()
"""
    scope = {"__name__": "__main__"}
    exec(body, scope)
    got = ray.get(ray.remote(max_calls=1)(scope["body"]).remote())
    assert got["arrow"]
    assert got["numpy"]


@pytest.mark.parametrize("name", ["init", "register", "stats", "sandboxed", "read_parquet"])
def test_public_names_stay_what_they_are(name):
    for _ in range(2):
        assert callable(getattr(zerrow_ray, name))


def make():
    import pyarrow as pa
    import pyarrow.compute as pc

    return pa.table({"x": pc.add(pa.array(np.arange(ROWS)), 0)})


@ray.remote
def born():
    return make()


@ray.remote
def nested(depth):
    return ray.get(nested.remote(depth - 1)) if depth else make()


@ray.remote
class Actor:
    def born(self):
        return make()

    async def later(self):
        return make()


@ray.remote
class Threaded:
    def born(self):
        return make()


@ray.remote
class Parent:
    def __init__(self):
        self.child = Threaded.remote()

    def born(self):
        return ray.get(self.child.born.remote())


@ray.remote
def stream():
    for _ in range(3):
        yield make()


def through_tasks():
    return [born.remote()]


def through_nested_tasks():
    return [nested.remote(2)]


def through_async_actor():
    return [Actor.remote().later.remote()]


def through_threaded_actor():
    return [Threaded.options(max_concurrency=4).remote().born.remote()]


def through_actors_of_actors():
    return [Parent.remote().born.remote()]


def through_streams():
    return list(stream.remote())


@pytest.mark.parametrize(
    "way",
    [
        through_tasks,
        through_nested_tasks,
        through_async_actor,
        through_threaded_actor,
        through_actors_of_actors,
        through_streams,
    ],
    ids=lambda way: way.__name__,
)
def test_what_is_born_anywhere_goes_by_reference(way):
    with Moved() as moved:
        refs = way()
        for ref in refs:
            assert len(ray.get(ref)) == ROWS
    assert moved.shared + moved.reshared >= 8 * ROWS * len(refs)
    assert moved.copied < 2**20


def test_a_user_may_have_a_setup_hook():
    script = f"""
import ray, zerrow_ray, pyarrow as pa, pyarrow.compute as pc, numpy as np
zerrow_ray.init(runtime_env={{"worker_process_setup_hook": hook}}, **{RAY_OPTIONS!r})
@ray.remote
def f():
    import os
    return os.environ["HOOKED"], pa.table({{"x": pc.add(pa.array(np.arange({ROWS})), 0)}})
ref = f.remote()
assert ray.get(ref)[0] == "yes"
assert zerrow_ray.stats().total.bytes_shared >= {8 * ROWS}
print("done")
"""
    hook = "def hook():\n    import os\n    os.environ['HOOKED'] = 'yes'\n"
    assert "done" in run_python(hook + script, timeout=200)


def test_a_worker_without_the_plugin_loads_what_is_exported():
    """Its environment has no zerrow_ray: tables that it makes take Ray's own path."""
    script = f"""
import ray, zerrow_ray, pyarrow as pa
def hide():
    import os, sys
    if "HIDDEN" in os.environ:
        sys.modules["zerrow_ray"] = None
zerrow_ray.init(runtime_env={{"worker_process_setup_hook": hide}}, **{RAY_OPTIONS!r})
hidden = {{"env_vars": {{"HIDDEN": "1"}}}}
@ray.remote(runtime_env=hidden)
def f():
    import numpy, sys
    assert sys.modules["zerrow_ray"] is None
    return pa.table({{"x": numpy.arange({ROWS})}})
@ray.remote(runtime_env=hidden)
class A:
    def f(self):
        return 7
assert len(ray.get(f.remote())) == {ROWS}
assert ray.get(A.remote().f.remote()) == 7
assert zerrow_ray.stats().total.bytes_shared == 0
print("done")
"""
    assert "done" in run_python(script, timeout=200)


def test_an_unfit_ray_is_used_without_the_plugin():
    script = """
import ray, logging
from ray._private.worker import Worker
put = Worker.put_object
del Worker.record_task_log_end
Worker.put_object = lambda self, anything: put(self, anything)
import zerrow_ray
from zerrow_ray import ray_compat
print(ray_compat.missing())
"""
    assert eval(run_python(script, timeout=200)) == [
        "ray._private.worker:Worker.put_object",
        "ray._private.worker:Worker.record_task_log_end",
    ]


def test_a_ray_without_what_its_extras_install_is_fit():
    script = """
import sys
sys.modules.update(dict.fromkeys(["grpc", "opentelemetry", "aiohttp", "opencensus"]))
from zerrow_ray import ray_compat
print(ray_compat.missing())
"""
    assert eval(run_python(script, timeout=200)) == []


def test_a_client_driver_is_told():
    script = """
import logging, ray
logging.basicConfig()
from ray.util.client.ray_client_helpers import ray_start_client_server
with ray_start_client_server() as client:
    import zerrow_ray
    for _ in range(2):
        zerrow_ray.register()
    import pyarrow as pa
    table = pa.table({"x": list(range(1_000_000))})
    assert client.get(client.put(table)).equals(table)
print("done")
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        timeout=250,
        env=os.environ | {"RAY_ADDRESS": "local"},  # not what else runs on this machine
    )
    assert "done" in done.stdout, done.stderr
    assert done.stderr.count("connected by ray://") == 1


@pytest.mark.parametrize(
    ("package", "installed", "said"),
    [
        ("ray", "2.61.0", ["ray 2.61.0 (tested: 2.57 to 2.60)"]),
        ("numpy", "3.0.0rc1", ["numpy 3.0.0rc1 (tested: 1.26 to 2.4)"]),
        ("pyarrow", "27.0.0", ["pyarrow 27.0.0 (tested: 19.0 to 26.0)"]),
        ("numpy", "2.1.3", []),
    ],
)
def test_untested_versions_are_noticed(monkeypatch, package, installed, said):
    from zerrow_ray import versions

    monkeypatch.setattr(
        versions, "version", lambda name: installed if name == package else known[name]
    )
    known = {"ray": "2.60.0", "pyarrow": "26.0.1", "numpy": "2.4.0"}
    assert versions.untested() == said


def test_a_submitted_job_with_the_hook_in_its_runtime_env():
    """What was needed once is not needed now, and does no harm: `ray job submit` hands the
    submitted environment to the script, whose `zerrow_ray.init()` has nothing to add.
    """
    script = f"""
import zerrow_ray, numpy as np, pyarrow as pa, ray
zerrow_ray.init(**{RAY_OPTIONS!r})
@ray.remote
def f():
    return pa.table({{"x": np.arange({ROWS})}})
assert len(ray.get(f.remote())) == {ROWS}
print(zerrow_ray.stats().total.bytes_shared)
"""
    submitted = {"runtime_env": {"worker_process_setup_hook": "zerrow_ray.worker_setup"}}
    printed = run_python(script, timeout=200, RAY_JOB_CONFIG_JSON_ENV_VAR=json.dumps(submitted))
    assert int(printed) >= 8 * ROWS


def test_the_store_logs_into_rays_session():
    logs = ray_compat.logs_directory()
    (log,) = logs.glob("zerrow-store-*[0-9a-f].log")
    assert "started" in log.read_text()


ANOTHER_VERSION = """
import logging, time
import numpy as np, pyarrow as pa, ray
from zerrow_store.protocol import framing, sockets
from zerrow_ray import warnings
import zerrow_ray
framing.PROTOCOL_VERSION += 1
said = []
warnings.logger.warning = lambda text, *parts: said.append(text % parts)

@ray.remote
def rows(table):
    return table.num_rows

@ray.remote
def make(n):
    return pa.table({{"x": np.arange(n)}})

zerrow_ray.init(address={address!r}, log_to_driver=False, logging_level="error")
table = pa.table({{"x": np.arange(1_000_000)}})
begin = time.monotonic()
for _ in range(20):
    assert ray.get(ray.put(table)).equals(table)
    assert ray.get(rows.remote(table)) == 1_000_000
    assert ray.get(make.remote(1_000_000)).equals(table)
print(len(said), "version" in said[0])
"""


def test_a_job_of_another_version_of_the_plugin_takes_rays_own_path(cluster):
    before = total()
    address = ray.get_runtime_context().gcs_address
    code = ANOTHER_VERSION.format(address=address)
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert ran.stdout == "1 True\n", ran.stderr[-5000:]
    assert total()["bytes_shared"] == before["bytes_shared"]
