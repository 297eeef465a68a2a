"""A hook of mkdocs: pages that lie elsewhere in the repository, and links to them.

README.md, CHANGELOG.md and kmod/README.md stay where people look for them; the site has each as a
page of its own, and the pictures of the benchmarks' results. Links are written as they hold in the
repository, and changed to the site's here.
"""

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

_OUTSIDE = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "kmod/README.md": "kernelzero.md",
}
_PICTURES = "benchmarks/results"
_LINK = re.compile(r"(?<=\]\()[^)#:\s]+\.(?:md|svg|png)(?=[#)])")


def on_files(files: Files, *, config: Any) -> Files:
    """Add the pages that lie outside of docs/."""
    root = Path(config.config_file_path).parent
    for path, page in _OUTSIDE.items():
        content = _relinked((root / path).read_text(), posixpath.dirname(path))
        files.append(File.generated(config, page, content=content))
    for path in (root / _PICTURES).iterdir():
        if path.suffix in (".svg", ".png"):
            files.append(File.generated(config, f"results/{path.name}", abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Files) -> str:
    """Change the links of the pages in docs/."""
    return markdown if page.file.generated_by else _relinked(markdown, "docs")


def _relinked(markdown: str, folder: str) -> str:
    def changed(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(folder, link[0]))
        if target.startswith(_PICTURES):
            return f"results/{posixpath.basename(target)}"
        return _OUTSIDE.get(target) or posixpath.relpath(target, "docs")

    return _LINK.sub(changed, markdown)
