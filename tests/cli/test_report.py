"""`zerrow report`: what it says, and how it looks in a browser."""

import json
import re
import shutil
import subprocess
from html import unescape
from html.parser import HTMLParser

import numpy as np
import pyarrow as pa
import pytest

import zerrow_store
from tests.helpers.capabilities import needs_chromium
from tests.helpers.python import zerrow
from tests.helpers.readers import write
from tests.helpers.waiting import wait_until
from zerrow_store.cli.report.charts import Line, over_time
from zerrow_store.cli.report.page import page, rows_table
from zerrow_store.cli.rows import columns
from zerrow_store.client.observe import ask
from zerrow_store.decache import read_parquet
from zerrow_store.protocol import messages as m

_VOID = {"meta"}


@pytest.fixture
def report(name, tmp_path, monkeypatch):
    """A report of a store that has shared, copied, spilled and cached."""
    zerrow("stop", "--name", name)
    monkeypatch.setenv("ZERROW_SPILL_DIR", str(tmp_path))
    assert zerrow("start", "--name", name, "--memory", "32MiB").returncode == 0
    client = zerrow_store.connect(name)
    outside = pa.Array.from_buffers(pa.int64(), 1 << 18, [None, pa.py_buffer(bytes(2 << 20))])
    client.put(outside)
    for _ in range(8):
        client.put(pa.table({"x": np.arange(1_000_000)}))
    path = tmp_path / "<b>&.parquet"
    write(path)
    for _ in range(2):
        read_parquet(path, columns=["c0"], client=client)
    wait_until(lambda: len(ask(name, m.History())) > 1)
    written = tmp_path / "report.html"
    done = zerrow("report", str(written), "--name", name)
    assert done.returncode == 0, done.stderr
    assert str(written) in done.stdout
    yield written
    client.close()


class Balanced(HTMLParser):
    """Fails for a tag that is not closed; keeps the texts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self._open: list[str] = []
        self.text = ""
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        if tag not in _VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        self.text += data + "\n"


def test_it_is_one_file_with_all_that_happened(report):
    html = report.read_text()
    assert not re.search(r"\b(src|href)=|url\(|@import|<script", html)
    text = Balanced(html).text
    for said in (
        "spill",
        "2 MiB",
        "c0",
        "<b>&.parquet",
        "budget",
        "32 MiB",
        "ZERROW_CAPTURE_ARROW",
    ):
        assert said in text, said
    assert "<b>&" not in html
    # Memory, and what was published, in three lines and four.
    assert html.count("<polyline") == 7


def test_what_a_user_named_is_text():
    html = rows_table([{"name": "<script>"}], columns("name"), most=1, without="")
    assert "<script>" not in html
    assert "<script>" in unescape(html)
    assert "<i>" not in page("<i>", "<i>", [("<i>", "")])
    assert "<i>" not in over_time("<i>", [0.0], [Line("<i>", "stored", [1.0])])


@pytest.mark.parametrize(
    ("values", "scale"),
    [([0.0, 0.0], "1 MiB"), ([5.0, 700.0 * 2**20], "768 MiB"), ([2.0**40], "1 TiB")],
)
def test_a_chart_has_a_scale_and_its_values_in_it(values, scale):
    times = [1000.0 + i for i in range(len(values))]
    chart = over_time("t", times, [Line("n", "stored", values)])
    Balanced(chart)
    assert f">{scale}<" in chart
    points = re.search(r'points="([^"]+)"', chart)[1].split()
    xs, ys = zip(*(map(float, point.split(",")) for point in points), strict=True)
    assert min(xs) == 80
    assert max(xs) == 890
    assert all(10 <= y <= 196 for y in ys)
    assert len(points) >= 2


def test_long_tables_are_cut_and_say_so():
    rows = [{"n": i} for i in range(60)]
    text = Balanced(rows_table(rows, columns("n"), most=50, without="")).text
    assert "49" in text
    assert "\n50\n" not in text
    assert "and 10 more" in text
    assert "nothing" in rows_table([], columns("n"), most=50, without="nothing")


@needs_chromium
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_browser_shows_it(report, scheme):
    seen = look(report, scheme)
    assert seen["title"] == "zerrow report"
    assert seen["headings"] == [
        "Memory",
        "Objects",
        "Copied",
        "Evictions",
        "Cache of decoded columns",
    ]
    assert seen["requests"] == []
    assert seen["width"] <= seen["window"], "the page scrolls sideways"
    assert len(seen["lines"]) == 7
    for line in seen["lines"]:
        assert line["right"] - line["left"] > 300
        assert line["stroke"] not in ("none", seen["background"])
    assert all(size > 6 for size in seen["texts"])
    assert (seen["background"] == "rgb(255, 255, 255)") == (scheme == "light")


def look(path, scheme):
    """Return what headless Chromium makes of a page, as a script in a copy of it says."""
    script = """<script>
    const box = e => e.getBoundingClientRect();
    const all = selector => [...document.querySelectorAll(selector)];
    const seen = {
      title: document.title, headings: all("h2").map(e => e.textContent),
      requests: performance.getEntriesByType("resource").map(e => e.name),
      width: document.documentElement.scrollWidth, window: window.innerWidth,
      background: getComputedStyle(document.body).backgroundColor,
      lines: all("polyline").map(e => ({left: box(e).left, right: box(e).right,
        stroke: getComputedStyle(e).stroke})),
      texts: all("svg text").map(e => box(e).height),
    };
    document.documentElement.innerHTML = "<pre></pre>";
    document.querySelector("pre").textContent = JSON.stringify(seen);
    </script>"""
    copy = path.with_name(f"{scheme}.html")
    copy.write_text(path.read_text().replace("</body>", script + "</body>"))
    command = [
        shutil.which("chromium"),
        "--headless",
        "--no-sandbox",  # it has none for root
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--window-size=1000,800",
        f"--user-data-dir={path.parent / scheme}",
        f"--blink-settings=preferredColorScheme={0 if scheme == 'dark' else 1}",
        "--dump-dom",
        copy.as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    found = re.search(r"<pre>(.*)</pre>", done.stdout, re.DOTALL)
    assert found, done.stderr[-2000:]
    return json.loads(unescape(found[1]))
