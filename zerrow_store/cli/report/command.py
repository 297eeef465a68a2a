"""`zerrow report`: the command."""

import time
from collections import defaultdict
from dataclasses import asdict
from pathlib import Path

import click

from zerrow_store.cli.cache import CACHE, cache_rows
from zerrow_store.cli.memory import EVICTIONS, GROUPS, eviction_rows, group_rows
from zerrow_store.cli.objects import copy_rows
from zerrow_store.cli.options import of_stores
from zerrow_store.cli.origins import add_origins
from zerrow_store.cli.output import SHORT
from zerrow_store.cli.report.charts import Line, over_time
from zerrow_store.cli.report.page import page, rows_table
from zerrow_store.cli.rows import Row, Wanted, columns
from zerrow_store.cli.stores import Answer, Selection
from zerrow_store.protocol.reports import CacheStats, EvictionTotals, Sample
from zerrow_store.sizes import format_size

_MOST = 50

_PUBLISHED = columns(
    "node bytes_shared bytes_reshared bytes_copied puts puts_waited",
    sizes="bytes_shared bytes_reshared bytes_copied",
)
_COPIED_BY = columns("node job function call_site pid tables copied", sizes="copied")
_WAYS = columns("node way count bytes expected_seconds seconds", sizes="bytes")
_HITS = columns("node entries hits misses decoding_seconds saved_seconds")

_WHY_COPIED = """<p>Bytes that are <b>shared</b> were published where they lay, <b>reshared</b> ones
lay in another process's memory already. What lies outside of the store's memory is <b>copied</b>
into it, once:</p><ul>
<li>what polars or duckdb made, Python's <code>bytes</code>, and what C or Rust libraries with
allocators of their own made;</li>
<li>what was allocated before <code>zerrow_store</code> was imported, or with
<code>ZERROW_CAPTURE_ARROW=0</code> or <code>ZERROW_CAPTURE_NUMPY=0</code>;</li>
<li>memory of pyarrow's that a NumPy array or a frame can still write to;</li>
<li>what was allocated while its process's arena was full
(<code>ZERROW_ARENA_CAPACITY</code>).</li></ul>
<p>The newest tables of which a megabyte or more was copied, by where they come from:</p>"""


@click.command(name="report")
@of_stores
@click.argument("path", type=click.Path(dir_okay=False, path_type=Path), default="zerrow.html")
def report(selection: Selection, path: Path) -> None:
    """Write a page about the stores to PATH (default: zerrow.html).

    It has the memory over time, what was copied, what was evicted, and the cache of decoded
    columns, in one file that needs no other.
    """
    path.write_text(html(selection), encoding="utf-8")
    click.echo(f"Written to {path}.")


def html(selection: Selection) -> str:
    """Return the page."""
    stats = selection.ask("stats")
    budgets = {each.node_id: each.body.budget for each in stats}
    histories = [each for each in selection.ask("history") if each.node_id in budgets]
    what = "the cluster's stores" if selection.cluster else f"the store {selection.name}"
    when = time.strftime("%Y-%m-%d %H:%M:%S %Z")
    sections = [
        ("Memory", "".join(_memory(each, budgets[each.node_id]) for each in histories)),
        ("Objects", _objects(selection)),
        ("Copied", _copied(selection, stats, histories)),
        ("Evictions", _evictions(selection, stats)),
        ("Cache of decoded columns", _cache(selection, stats)),
    ]
    return page("zerrow report", f"{what}, {when}", sections)


def _memory(answer: Answer, budget: int) -> str:
    samples = _samples(answer)
    lines = [
        Line("budget", "budget", [budget] * len(samples)),
        Line("resident: in memory, published or not", "resident", [s.resident for s in samples]),
        Line("stored: of objects", "stored", [s.bytes_stored for s in samples]),
        Line("spilled, on disk", "spilled", [s.bytes_spilled for s in samples]),
    ]
    peak = format_size(max(s.resident for s in samples))
    head = _heading(answer) + f'<p class="dim">at most {peak} of {format_size(budget)}</p>'
    return head + over_time("memory over time", [s.when for s in samples], lines)


def _objects(selection: Selection) -> str:
    by = "process" if selection.cluster is None else "function"
    rows = sorted(group_rows(selection, by), key=lambda row: -row["bytes"])
    known = columns(
        f"{GROUPS[by]} objects bytes in_use idle bytes_spilled",
        sizes="bytes in_use idle bytes_spilled",
    )
    return rows_table(rows, known, most=_MOST, without="No objects.")


def _copied(selection: Selection, stats: list[Answer], histories: list[Answer]) -> str:
    totals = [{**each.place, **each.body.as_dict()} for each in stats]
    charts = []
    for answer in histories:
        samples = _samples(answer)
        lines = [
            Line("shared", "shared", [s.bytes_shared for s in samples]),
            Line("reshared", "reshared", [s.bytes_reshared for s in samples]),
            Line("copied", "copied", [s.bytes_copied for s in samples]),
        ]
        chart = over_time("bytes published so far", [s.when for s in samples], lines)
        charts.append(_heading(answer) + chart)
    by_origin = rows_table(
        _copied_by(selection), _COPIED_BY, most=_MOST, without="None: nothing of that size."
    )
    published = rows_table(totals, _PUBLISHED, most=len(totals), without="")
    return published + "".join(charts) + _WHY_COPIED + by_origin


def _copied_by(selection: Selection) -> list[Row]:
    rows = copy_rows(selection)
    add_origins(rows, selection, Wanted(detail=True))
    keys = ("node", "job", "function", "call_site", "pid")
    groups: defaultdict[tuple[object, ...], list[Row]] = defaultdict(list)
    for row in rows:
        groups[tuple(row[key] for key in keys if key in row)].append(row)
    summed = [
        {key: members[0][key] for key in keys if key in members[0]}
        | {"tables": len(members), "copied": sum(row["copied"] for row in members)}
        for members in groups.values()
    ]
    return sorted(summed, key=lambda row: -row["copied"])


def _evictions(selection: Selection, stats: list[Answer]) -> str:
    totals = [
        {**each.place, "way": way, **_rounded(sums)}
        for each in stats
        for way, sums in each.body.evicted.items()
        if sums.count
    ]
    rows = sorted(eviction_rows(selection), key=lambda row: float(row["age_seconds"]))
    ways = rows_table(totals, _WAYS, most=len(totals), without="Nothing was evicted.")
    if not rows:
        return ways
    return f"{ways}<h3>The newest</h3>{rows_table(rows, EVICTIONS, most=_MOST, without='')}"


def _cache(selection: Selection, stats: list[Answer]) -> str:
    totals = [{**each.place, **_rounded(each.body.cache)} for each in stats]
    rows = sorted(cache_rows(selection), key=lambda row: -float(row["seconds_saved"]))
    known = rows_table(rows, CACHE, most=_MOST, without="Nothing is cached.")
    return rows_table(totals, _HITS, most=len(totals), without="") + known


def _rounded(figures: EvictionTotals | CacheStats) -> Row:
    return {name: round(value, 3) for name, value in asdict(figures).items()}


def _samples(answer: Answer) -> list[Sample]:
    samples: list[Sample] = answer.body
    return samples


def _heading(answer: Answer) -> str:
    node = answer.node
    return "" if node is None else f"<h3>Node {node.id[:SHORT]}, {node.host}</h3>"
