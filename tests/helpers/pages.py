"""Reading the pages of the documentation: their tables, and their code."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"

_SPAN = re.compile(r"`([^`]+)`")
_FENCED = re.compile(r"^```.*?^```$", re.M | re.S)


def rows(page: Path, first_column: str) -> list[list[str]]:
    """Return the rows of a page's tables whose first column has this title, cell by cell."""
    found: list[list[str]] = []
    inside = False
    for line in page.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split(" | ")]
        if not line.startswith("|"):
            inside = False
        elif cells[0] == first_column:
            inside = True
        elif inside and not set(line) <= set("|- :"):
            found.append(cells)
    assert found, f"{page.name} has no table of {first_column}"
    return found


def spans(text: str) -> list[str]:
    """Return what stands between backticks, outside of code blocks."""
    return _SPAN.findall(_FENCED.sub("", text))


_EXAMPLE = re.compile(r"(?:^<!-- not run: ?(.*?) -->\n)?^```python\n(.*?)^```$", re.M | re.S)


def examples(page: Path) -> list[tuple[int, str]]:
    """Return a page's Python examples that are to run, each with the number of the line above."""
    text = page.read_text()
    return [
        (text.count("\n", 0, found.start(2)), found[2])
        for found in _EXAMPLE.finditer(text)
        if found[1] is None
    ]


def not_run(page: Path) -> list[str]:
    """Return why the other examples of a page do not run."""
    return [found[1] for found in _EXAMPLE.finditer(page.read_text()) if found[1] is not None]
