"""Files, targets and commands that the documentation names are there."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.pages import DOCS, ROOT, spans

PAGES = [ROOT / "README.md", ROOT / "kmod" / "README.md", *sorted(DOCS.glob("*.md"))]
_FOLDERS = ("zerrow_store", "integrations", "kmod", "tests", "benchmarks", "tools", "docs")
_FILE = re.compile(r"[\w./-]*\w\.(?:py|pyi|cc|c|h|sh|md)")
_ELSEWHERE = {
    "ray_config_def.h",
    "test_large_objects.py",
    "test_object_store.py",
    "your_script.py",
    "largest_first.py",
    "tests/node/test_touch.py",
}
"""Files of Ray, and those that a reader writes."""


@pytest.fixture(scope="module")
def files() -> list[str]:
    found = [path for folder in _FOLDERS for path in (ROOT / folder).rglob("*") if path.is_file()]
    return [f"/{path.relative_to(ROOT)}" for path in found] + [
        f"/{path.name}" for path in ROOT.iterdir() if path.is_file()
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_a_page_names_are_there(page: Path, files: list[str]) -> None:
    named = {span for span in spans(page.read_text()) if _FILE.fullmatch(span)}
    missing = [
        name
        for name in sorted(named)
        if name not in _ELSEWHERE and not any(file.endswith(f"/{name}") for file in files)
    ]
    assert missing == []


def test_targets_of_make_that_pages_name_are_there() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z][\w-]*):", makefile, re.MULTILINE))
    code = re.compile(r"`[^`]*`|^    .*$", re.MULTILINE)
    named = {
        target
        for page in PAGES
        for span in code.findall(page.read_text())
        for target in re.findall(r"\bmake ([a-z][a-z0-9-]*)", span)
    }
    assert len(named) > 10
    assert named - targets == set()


def test_commands_that_pages_name_are_there() -> None:
    code = re.compile(r"`zerrow ([a-z]+)|^ {4}(?:\w+=\S+ )?zerrow ([a-z]+)", re.MULTILINE)
    named = {a or b for page in PAGES for a, b in code.findall(page.read_text())}
    assert {"start", "doctor", "memory"} <= named
    help_text = subprocess.run(
        [sys.executable, "-m", "zerrow_store.cli.main", "--help"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert [name for name in sorted(named) if not re.search(rf"\b{name}\b", help_text)] == []
