"""The Python examples of README.md and docs/ run, but for those that say why they do not."""

import os
import subprocess
import sys
import textwrap
import uuid
from pathlib import Path

import pytest

from tests.helpers.pages import DOCS, ROOT, examples, not_run
from tests.helpers.stores import Store

README = ROOT / "README.md"

PAGES = [page for page in [README, *sorted(DOCS.glob("*.md"))] if examples(page)]

_README_PRELUDE = """
    import functools, pathlib
    import pyarrow as pa, pyarrow.compute as pc, pyarrow.parquet as pq
    import ray
    import zerrow_store
    from zerrow_store.connection import connect

    column = pa.array(range(1_000_000))
    table = pa.table({"l_orderkey": column, "l_tax": pc.multiply(column, 2), "other": column})
    pathlib.Path("lineitem").mkdir()
    pq.write_table(table, "lineitem/part.parquet")
    zerrow_store.connect = functools.partial(connect, STORE)

    @ray.remote
    def task(table):
        return table

    @ray.remote
    def final(what):
        return 1

    node = final.bind(1)
"""

_API_PRELUDE = """
    import pathlib
    import duckdb, polars
    import pyarrow as pa, pyarrow.parquet as pq
    import ray
    import zerrow_store
    import zerrow_ray
    from tests.helpers.rays import RAY_OPTIONS

    table = pa.table({"l_orderkey": range(10_000), "l_tax": range(10_000)})
    pathlib.Path("lineitem").mkdir()
    pq.write_table(table, "lineitem/part.parquet")
    client = zerrow_store.connect(STORE)
    zerrow_ray.init(**RAY_OPTIONS)
"""

_PRELUDES = {"README.md": _README_PRELUDE, "api.md": _API_PRELUDE}
"""What the examples of a page take for granted. STORE is the name of a store that runs."""


@pytest.mark.timeout(900)  # Ray is started three times
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_examples_of_a_page_run(
    page: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if page == README:  # it draws a DAG
        request.getfixturevalue("graphviz_is_there")
    store = Store(f"docs-{uuid.uuid4().hex[:12]}", budget=1 << 28)
    try:
        prelude = tmp_path / "prelude.py"
        text = textwrap.dedent(_PRELUDES.get(page.name, ""))
        prelude.write_text(f"STORE = {store.name!r}\n{text}")
        ran = subprocess.run(
            [sys.executable, "-m", "tests.docs.run_page", str(page), str(prelude)],
            capture_output=True,
            text=True,
            check=False,
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(tmp_path)])},
            timeout=840,
        )
    finally:
        store.stop()
    assert ran.returncode == 0, ran.stderr
    ended = [line for line in ran.stdout.splitlines() if line.startswith("ran ")]
    assert ended == [f"ran {page.name}:{line}" for line, _ in examples(page)]


def test_what_is_not_run_says_why() -> None:
    reasons = {page.name: not_run(page) for page in [README, *DOCS.glob("*.md")] if not_run(page)}
    assert set(reasons) <= {"contributing.md"}, "pages whose examples do not run"
    assert all(reason for page in reasons.values() for reason in page)


def test_examples_are_found_with_their_lines_and_reasons(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# Page\n\n```python\nx = 1\n```\n\n"
        "<!-- not run: it takes a day -->\n```python\ny = 2\n```\n\n```\nz = 3\n```\n"
    )
    assert examples(page) == [(3, "x = 1\n")]
    assert not_run(page) == ["it takes a day"]
