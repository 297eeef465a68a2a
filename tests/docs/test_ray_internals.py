"""`docs/ray-internals.md` lists the private names of Ray that are used, and what is replaced."""

import json
import subprocess
import sys

from tests.helpers.pages import DOCS, rows, spans
from tests.helpers.versions import needs_known_ray_data
from zerrow_ray import ray_compat

_PAGE = DOCS / "ray-internals.md"

_COMPARE = """
import functools, importlib, json
from zerrow_ray import ray_compat, ray_recovery_compat

def found(name):
    module, _, path = name.partition(":")
    return functools.reduce(getattr, path.split("."), importlib.import_module(module))

names = ray_compat._EXPECTED | ray_recovery_compat._EXPECTED
before = {name: found(name) for name in names}
from zerrow_ray.activation import activate
assert activate()
import pyarrow
from zerrow_ray.dag import ray_dag_compat
from zerrow_ray.data import ray_data_compat
rest = ray_dag_compat._EXPECTED | ray_data_compat._EXPECTED
before |= {name: found(name) for name in rest}
import zerrow_ray
zerrow_ray.data.cache_reads()
replaced = [name for name, old in before.items() if found(name) is not old]
print(json.dumps([sorted(before), sorted(replaced)]))
"""


def listed() -> dict[str, str]:
    """How each name on the page is used."""
    pairs = [(name, row[1]) for row in rows(_PAGE, "name") for name in spans(row[0])]
    assert len(pairs) == len(dict(pairs)), "a name stands on the page twice"
    return dict(pairs)


@needs_known_ray_data
def test_the_page_has_the_names_that_are_expected_and_what_is_replaced() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", _COMPARE], capture_output=True, text=True, check=False, timeout=240
    )
    assert ran.returncode == 0, ran.stderr
    expected, replaced = json.loads(ran.stdout.splitlines()[-1])
    uses = listed()
    assert sorted(uses) == expected
    assert sorted(name for name, use in uses.items() if use == "replaced") == replaced


def test_what_the_page_says_of_a_ray_that_lacks_a_name_holds() -> None:
    assert ray_compat.missing() == []
    assert ray_compat.missing({"ray:no_such_name": None}) == ["ray:no_such_name"]
    assert ray_compat.missing({"ray:get": ["refs", "and_more"]}) == ["ray:get"]
