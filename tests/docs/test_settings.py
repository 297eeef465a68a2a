"""`docs/settings.md` has every environment variable that the code reads, and none else."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from tests.helpers.pages import DOCS, ROOT, rows, spans

_OURS = re.compile(r"ZERROW_[A-Z]+(_[A-Z]+)*")
_READS = {"get", "getenv", "pop", "setdefault"}


def read_in_python(path: Path) -> Iterator[str]:
    """The variables that a file reads: its own prefix as a whole literal, others by `environ`."""
    for node in ast.walk(ast.parse(path.read_text())):
        name: ast.expr | None = None
        if isinstance(node, ast.Constant):
            if isinstance(node.value, str) and _OURS.fullmatch(node.value):
                yield node.value
        elif isinstance(node, ast.Subscript) and _is_environment(node.value):
            name = node.slice
        elif (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in _READS
            and (_is_environment(node.func.value) or node.func.attr == "getenv")
        ):
            name = node.args[0]
        if isinstance(name, ast.Constant):
            assert isinstance(name.value, str)
            yield name.value


def _is_environment(node: ast.expr) -> bool:
    return (isinstance(node, ast.Attribute) and node.attr == "environ") or (
        isinstance(node, ast.Name) and node.id == "environ"
    )


def read_in_cpp(path: Path) -> list[str]:
    return re.findall(r'getenv\(\s*"(\w+)"', path.read_text())


def read_by_the_code() -> set[str]:
    found: set[str] = set()
    for folder in ("zerrow_store", "integrations"):
        for path in (ROOT / folder).rglob("*"):
            if path.suffix == ".py":
                found.update(read_in_python(path))
            elif path.suffix in (".cc", ".h"):
                found.update(read_in_cpp(path))
    return found


def test_every_setting_is_documented_and_none_else() -> None:
    documented = [name for row in rows(DOCS / "settings.md", "variable") for name in spans(row[0])]
    assert sorted(documented) == sorted(set(documented))
    assert set(documented) == read_by_the_code()


def test_all_ways_of_reading_the_environment_are_seen(tmp_path: Path) -> None:
    source = tmp_path / "source.py"
    source.write_text(
        'import os\nos.environ.get("A_B")\nos.environ["C_D"]\nos.getenv("E_F", "")\n'
        'def of(environ):\n    _size(environ, "ZERROW_G", 1)\n    environ.get("H_I")\n'
        'print("ZERROW_NOT this one")\n'
    )
    assert set(read_in_python(source)) == {"A_B", "C_D", "E_F", "ZERROW_G", "H_I"}
    native = tmp_path / "source.cc"
    native.write_text('auto x = std::getenv("J_K");')
    assert read_in_cpp(native) == ["J_K"]
