"""`docs/reference.md` has every public name, and no name that is not there."""

import functools
import re
from importlib import import_module
from types import ModuleType

import pytest

from tests.helpers.pages import DOCS, rows

PUBLIC = ("zerrow_ray", "zerrow_ray.dag", "zerrow_ray.data", "zerrow_store", "zerrow_store.sandbox")


def listed() -> list[str]:
    return re.findall(r"^::: (\S+)$", (DOCS / "reference.md").read_text(), re.MULTILINE)


@pytest.mark.parametrize("package", PUBLIC)
def test_every_public_name_is_on_the_page(package: str) -> None:
    module = import_module(package)
    public = {n for n in module.__all__ if not isinstance(getattr(module, n), ModuleType)}
    on_page = {
        name.removeprefix(f"{package}.") for name in listed() if name.rpartition(".")[0] == package
    }
    assert public - on_page == set()


def test_every_name_on_the_page_is_there() -> None:
    for name in listed():
        parts = name.split(".")
        depth = 1 + max(n for n in range(len(parts)) if _is_module(".".join(parts[: n + 1])))
        module = import_module(".".join(parts[:depth]))
        assert functools.reduce(getattr, parts[depth:], module) is not None
    assert len(listed()) == len(set(listed()))


def test_every_method_of_a_client_that_is_public_is_on_the_page() -> None:
    (row,) = [row for row in rows(DOCS / "api.md", "name") if row[0] == "`Client`"]
    public = set(re.findall(r"`(\w+)`", row[2]))
    members = re.search(r"^    +members: \[(.*)\]$", (DOCS / "reference.md").read_text(), re.M)
    assert members is not None
    assert public - set(members[1].split(", ")) == set()


def _is_module(name: str) -> bool:
    try:
        import_module(name)
    except ImportError:
        return False
    return True
