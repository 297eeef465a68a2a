"""What the pages quote of errors and warnings is what the code says."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.pages import DOCS, ROOT, rows, spans

GUIDE = DOCS / "guide.md"
KERNELZERO = ROOT / "kmod" / "README.md"


def said_in(path: Path) -> Iterator[str]:
    """The texts of a file, with `...` for what is filled in."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
        elif isinstance(node, ast.JoinedStr):
            values = [v.value if isinstance(v, ast.Constant) else "..." for v in node.values]
            yield "".join(map(str, values))


@pytest.fixture(scope="module")
def texts() -> list[str]:
    folders = (ROOT / "zerrow_store", ROOT / "integrations")
    return [text for folder in folders for path in folder.rglob("*.py") for text in said_in(path)]


def is_said(quoted: str, texts: list[str]) -> bool:
    """Whether a text has all pieces of a quotation, between its `...`, in this order."""
    pieces = [piece.strip(" ,;:") for piece in quoted.split("...")]
    return any(_has(text, pieces) for text in texts)


def _has(text: str, pieces: list[str]) -> bool:
    at = 0
    for piece in pieces:
        at = text.find(piece, at)
        if at < 0:
            return False
        at += len(piece)
    return True


def quotations() -> list[str]:
    in_guide = [
        span
        for first_column in ("message or reason", "what you see")
        for row in rows(GUIDE, first_column)
        for span in spans(row[0])
        if span.count(" ") > 2
    ]
    return in_guide + [row[0] for row in rows(KERNELZERO, "`zerrow doctor` says")]


@pytest.mark.parametrize("quoted", quotations())
def test_quoted_messages_are_those_of_the_code(quoted: str, texts: list[str]) -> None:
    # A name of an error in front of it, and a device's path, are filled in.
    text = quoted.removeprefix("ObjectLostError: ").replace("/dev/kernelzero", "...")
    assert is_said(text, texts), f"nothing in the code says {quoted!r}"


def test_a_message_that_is_not_said_is_found(texts: list[str]) -> None:
    assert is_said("the store ... did not start; ... say why", texts)
    assert not is_said("the store ... say why; ... did not start", texts)
    assert not is_said("the store ... has not been started", texts)
