"""The page around a report's sections: self-contained, without scripts."""

from collections.abc import Sequence
from html import escape

from zerrow_store.cli.output import SHORT, cell
from zerrow_store.cli.rows import Column, Row

_STYLE = """
:root { color-scheme: light dark; --text: #1c2430; --dim: #66707f; --line: #d9dee5; --back: #fff;
  --resident: #8a94a3; --stored: #1f77b4; --spilled: #d97706; --budget: #c0392b; --shared: #2a9d5c;
  --reshared: #7b61c4; --copied: #c0392b; }
@media (prefers-color-scheme: dark) { :root { --text: #e4e8ee; --dim: #98a2b1; --line: #343c49;
  --back: #161b22; --stored: #58a6ff; --spilled: #f0a04b; --budget: #ff7b72; --shared: #4cc38a;
  --reshared: #a991ff; --copied: #ff7b72; } }
body { font: 14px/1.5 system-ui, sans-serif; color: var(--text); background: var(--back);
  max-width: 1100px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
h3 { font-size: 1rem; margin-bottom: .3rem; } p, li { max-width: 75ch; }
.dim { color: var(--dim); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: .5rem 0 1rem; }
th, td { text-align: left; padding: .2rem .9rem .2rem 0; border-bottom: 1px solid var(--line);
  white-space: nowrap; }
th { color: var(--dim); font-weight: 600; } td.number, th.number { text-align: right; }
figure { margin: .5rem 0 1rem; } svg { width: 100%; height: auto; }
svg text { font-size: 11px; fill: var(--dim); text-anchor: end; }
svg .grid { stroke: var(--line); }
polyline { fill: none; stroke-width: 2; }
figcaption span { margin-right: 1.2rem; }
figcaption i { display: inline-block; width: 1rem; height: 0; margin-right: .4rem;
  vertical-align: middle; border-top: 3px solid; }
""" + "".join(
    f"polyline.{name} {{ stroke: var(--{name}); }} i.{name} {{ border-color: var(--{name}); }}\n"
    for name in ("resident", "stored", "spilled", "budget", "shared", "reshared", "copied")
)


def page(title: str, subtitle: str, sections: Sequence[tuple[str, str]]) -> str:
    """Return a page. sections: heading, and HTML."""
    body = "".join(f"<section><h2>{escape(head)}</h2>{html}</section>" for head, html in sections)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f"<title>{escape(title)}</title>"
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{_STYLE}</style></head>\n"
        f'<body><h1>{escape(title)}</h1><p class="dim">{escape(subtitle)}</p>{body}</body></html>\n'
    )


def rows_table(rows: Sequence[Row], known: Sequence[Column], *, most: int, without: str) -> str:
    """Return a table of the first rows. without: what is said if there are none."""
    if not rows:
        return f'<p class="dim">{escape(without)}</p>'
    shown = [column for column in known if column.name in rows[0] and not column.detail]
    numbers = {each.name for each in shown if _is_number(rows[0][each.name])}
    head = "".join(
        f"<th{_class(each, numbers)}>{escape(each.name.replace('_', ' '))}</th>" for each in shown
    )
    body = "".join(
        "<tr>" + "".join(_td(row, each, numbers) for each in shown) + "</tr>" for row in rows[:most]
    )
    more = f'<p class="dim">and {len(rows) - most:,} more</p>' if len(rows) > most else ""
    return f'<div class="scroll"><table><tr>{head}</tr>{body}</table></div>{more}'


def _td(row: Row, column: Column, numbers: set[str]) -> str:
    text = cell(row[column.name], column)
    whole = f' title="{escape(str(row[column.name]))}"' if len(text) <= SHORT else ""
    return f"<td{_class(column, numbers)}{whole}>{escape(text)}</td>"


def _class(column: Column, numbers: set[str]) -> str:
    return ' class="number"' if column.name in numbers else ""


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
