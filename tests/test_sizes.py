"""What is long has a reason, which is said at its head.

Long is a file of more than 400 lines, a function of more than 40 without its docstring, a class of
more than 15 methods. The reason is a sentence with "long because", or of a class with "many methods
because". It stands in the docstring, or in a comment above the definition where the docstring is
for users; for `__init__`, at the head of the class. To list them all:

    python -m tests.test_sizes
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("zerrow_store", "integrations/zerrow_ray", "tests")

LINES_OF_FILE = 400
LINES_OF_FUNCTION = 40
METHODS = 15

Function = ast.FunctionDef | ast.AsyncFunctionDef


def long_ones(path: Path) -> Iterator[tuple[str, bool]]:
    """What is long in a file, and whether it has a reason."""
    text = path.read_text()
    lines, tree = text.splitlines(), ast.parse(text)
    if len(lines) > LINES_OF_FILE:
        yield f"a file of {len(lines)} lines", "long because" in _words(ast.get_docstring(tree))
    parents = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
    for node in ast.walk(tree):
        if isinstance(node, Function) and (count := _code_lines(node)) > LINES_OF_FUNCTION:
            head = _head(node, lines)
            if node.name == "__init__":
                head += _head(parents[node], lines)
            yield f"{node.name}, a function of {count} lines", "long because" in head
        elif isinstance(node, ast.ClassDef):
            count = sum(isinstance(each, Function) for each in node.body)
            if count > METHODS:
                reason = "many methods because" in _head(node, lines)
                yield f"{node.name}, a class of {count} methods", reason


def _code_lines(function: Function) -> int:
    assert function.end_lineno is not None
    count = function.end_lineno - function.lineno + 1
    if ast.get_docstring(function) is not None:
        docstring = function.body[0]
        assert docstring.end_lineno is not None
        count -= docstring.end_lineno - docstring.lineno + 1
    return count


def _head(node: ast.AST, lines: list[str]) -> str:
    """The docstring, and the comment above."""
    assert isinstance(node, Function | ast.ClassDef)
    first = min([node.lineno, *(each.lineno for each in node.decorator_list)])
    comment: list[str] = []
    for line in reversed(lines[: first - 1]):
        if not line.lstrip().startswith("#"):
            break
        comment.insert(0, line.lstrip(" #"))
    return _words(ast.get_docstring(node)) + _words(" ".join(comment))


def _words(text: str | None) -> str:
    return re.sub(r"\s+", " ", text or "").lower()


def all_long_ones() -> Iterator[tuple[str, bool]]:
    """All of both packages."""
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            for what, has_reason in long_ones(path):
                yield f"{path.relative_to(ROOT)}: {what}", has_reason


def test_what_is_long_has_a_reason() -> None:
    found = list(all_long_ones())
    assert found
    assert [what for what, has_reason in found if not has_reason] == []


def test_what_has_no_reason_is_found(tmp_path: Path) -> None:
    path = tmp_path / "long.py"
    body = "\n".join(["    x = 1"] * LINES_OF_FUNCTION)
    methods = "\n".join(f"    def f{n}(self): ..." for n in range(METHODS + 1))
    documented = '    """A docstring.\n' + "\n" * 40 + '    """\n    x = 1'
    path.write_text(
        f"def bare():\n{body}\n"
        f"# Long because it is a test.\ndef said():\n{body}\n"
        f"def documented():\n{documented}\n"
        f"class Large:\n{methods}\n"
        f'class Reasoned:\n    """A test.\n\n    Many methods because of that."""\n{methods}\n'
    )
    assert dict(long_ones(path)) == {
        "bare, a function of 41 lines": False,
        "said, a function of 41 lines": True,
        "Large, a class of 16 methods": False,
        "Reasoned, a class of 16 methods": True,
    }
    path.write_text('"""Long because it is one."""\n' + "x = 1\n" * LINES_OF_FILE)
    assert dict(long_ones(path)) == {"a file of 401 lines": True}


if __name__ == "__main__":
    for what, has_reason in all_long_ones():
        print(what, "" if has_reason else "without a reason", sep="  ")
