"""Pages have 4 KiB on x86-64; on ARM 16 or 64 KiB, too, as the kernel is built."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
FIXED = re.compile(
    r"^.*\bk?_?page(?:_?size)? = (?:4096|4 << 10|1 << 12).*$", re.IGNORECASE | re.MULTILINE
)


def test_no_source_says_how_large_a_page_is() -> None:
    sources = [p for folder in ("zerrow_store", "integrations") for p in (ROOT / folder).rglob("*")]
    read = {p: p.read_text() for p in sources if p.suffix in {".py", ".cc", ".h"}}
    assert len(read) > 100
    assert {str(p): found for p, text in read.items() if (found := FIXED.findall(text))} == {}
