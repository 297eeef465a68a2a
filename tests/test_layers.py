"""Imports go one way: from what uses to what is used, across the folders of both packages."""

import ast
import graphlib
import re
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]

LAYERS = (
    "arrow_data errors forks memfd once processes sizes threads cgroups _disk _ledger",
    "config logs lru policy segments",
    "budget protocol native",
    "memory client server",
    "connection",
    "decache transfer sandbox metrics",
    "cli",
)
"""Of zerrow_store, the lowest first. What stands in one line does not know each other."""

PACKAGES = ("zerrow_store", "integrations/zerrow_ray")

RAYS_PRIVATE_NAMES = {
    "ray_compat.py",
    "ray_cli_compat.py",
    "ray_dag_compat.py",
    "ray_data_compat.py",
    "ray_recovery_compat.py",
}

OWN = ("self", "cls", "os", "self._budget")
"""What private attributes are taken of that are not Ray's."""


def imports(path: Path) -> Iterator[str]:
    """The full names that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module is not None
            assert not node.level, f"{path} has a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def sources(package: str) -> list[Path]:
    found = sorted((ROOT / package).rglob("*.py"))
    assert len(found) > 20
    return found


def test_no_import_goes_up_or_to_the_side() -> None:
    height = {name: n for n, layer in enumerate(LAYERS) for name in layer.split()}
    wrong = []
    for path in sources("zerrow_store"):
        room = path.relative_to(ROOT / "zerrow_store").with_suffix("").parts[0]
        if room == "__init__":  # it loads everything, at first use
            continue
        for name in imports(path):
            if name.split(".")[0] != "zerrow_store" or name == "zerrow_store.__version__":
                continue
            if name == "zerrow_store":  # it may load everything
                wrong.append(f"{path.relative_to(ROOT)} imports {name}")
                continue
            other = name.split(".")[1]
            if other != room and height[other] >= height[room]:
                wrong.append(f"{path.relative_to(ROOT)} imports {name}")
    assert wrong == []


def test_the_protocol_imports_nothing_of_ours_but_errors() -> None:
    parts = {
        name.split(".")[1]
        for path in (ROOT / "zerrow_store" / "protocol").rglob("*.py")
        for name in imports(path)
        if name.startswith("zerrow_store.")
    }
    assert parts == {"errors", "protocol"}


def test_no_import_goes_in_a_circle() -> None:
    """Also none that a function makes: it would show at some later time."""
    paths = {module_of(p): p for top in PACKAGES for p in sources(top) if p.name != "__init__.py"}
    below = {module: {*map(module_in(paths), imports(path))} for module, path in paths.items()}
    sorter = graphlib.TopologicalSorter(below)
    sorter.prepare()  # raises CycleError, which names the modules


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[1:] if parts[0] == "integrations" else parts)


def module_in(modules: Collection[str]) -> Callable[[str], str]:
    """Return the module that a full name is of; the name itself if it is none of these."""

    def found(name: str) -> str:
        return name if name in modules else name.rpartition(".")[0]

    return found


def test_only_the_plugin_knows_ray() -> None:
    known = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in sources("zerrow_store")
        for name in imports(path)
        if name.split(".")[0] in ("ray", "zerrow_ray")
    ]
    assert known == []


def test_private_names_of_ray_are_used_in_one_place() -> None:
    used = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in sources("integrations/zerrow_ray")
        for name in imports(path)
        if name.split(".")[0] == "ray" and any(part.startswith("_") for part in name.split("."))
        if path.name not in RAYS_PRIVATE_NAMES
    ]
    assert used == []


def test_private_attributes_of_ray_are_used_in_one_place() -> None:
    used = [
        f"{path.relative_to(ROOT)}:{node.lineno} {ast.unparse(node)}"
        for path in sources("integrations/zerrow_ray")
        if path.name not in RAYS_PRIVATE_NAMES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and re.match(r"_(?!_)", node.attr)
        if ast.unparse(node.value) not in OWN
    ]
    assert used == []


def test_no_test_module_is_imported_by_another() -> None:
    shared = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in sources("tests")
        for name in imports(path)
        if name.startswith("tests.")
        if any(part == "conftest" or part.startswith("test_") for part in name.split("."))
    ]
    assert shared == []
