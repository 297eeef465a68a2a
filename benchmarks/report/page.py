"""The report as a page: built once of sections, written as HTML, which is self-contained, and as
Markdown, with the plots beside it.
"""

import base64
import html
import time
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.report.case import Case
from benchmarks.report.numbers import (
    Record,
    amount,
    break_even,
    geometric_mean,
    noise,
    outcomes,
    sentence,
    times,
)
from benchmarks.report.plots import plot

Table = list[list[str]]
"""Rows, the first one of which is the header."""

COLUMNS = ("seconds", "seconds_low", "seconds_high", "cpu", "pss", "copied", "faults")
HEADER = ["point", "side", "n", "seconds", "quartiles", "CPU s", "memory", "copied", "page faults"]
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62em; margin: 2em auto; padding: 0 1em; }
table { border-collapse: collapse; font-size: 13px; } td, th { padding: 1px 10px; text-align: right;
border-bottom: 1px solid #ddd; } td:first-child, th:first-child,
td:nth-child(2) { text-align: left; }
img { max-width: 100%; } .limits { color: #555; }
"""


@dataclass
class Section:
    """A heading, and what stands below: paragraphs, a list, a plot, a table."""

    title: str
    paragraphs: list[str] = field(default_factory=list)
    points: list[str] = field(default_factory=list)
    picture: tuple[str, str] | None = None
    """A file's name and its SVG."""
    table: Table = field(default_factory=list)


def build(records: list[tuple[Case, Record]], full: bool) -> list[Section]:
    """Return the report's sections: a summary, and one for each case."""
    return [_summary(records, full), *(_section(case, record) for case, record in records)]


def write(sections: list[Section], directory: Path) -> Path:
    """Write both pages and the plots; returns the HTML page's path."""
    directory.mkdir(parents=True, exist_ok=True)
    for section in sections:
        if section.picture:
            name, svg = section.picture
            (directory / name).write_text(svg)
    (directory / "report.md").write_text("\n\n".join(map(_markdown, sections)) + "\n")
    body = "\n".join(map(_html, sections))
    page = directory / "report.html"
    title = html.escape(sections[0].title)
    head = f'<meta charset="utf-8"><title>{title}</title><style>{STYLE}</style>'
    page.write_text(f'<!doctype html>\n<html lang="en">{head}\n{body}\n</html>\n')
    return page


# --- what stands in it ---


def _summary(records: list[tuple[Case, Record]], full: bool) -> Section:
    rows: Table = [["figure", "case", "paper", "here", ""]]
    for case, record in records:
        for outcome in outcomes(case, record):
            if outcome.ratio.paper is not None:
                reached = ("not reached", "reached")[outcome.times >= outcome.ratio.paper]
                here = times(outcome.times) + (" (noise)" if outcome.noisy else "")
                paper = f"{outcome.ratio.paper:g} times"
                rows.append([outcome.ratio.what, case.title, paper, here, reached if full else ""])
    section = Section("zerrow-store: the evidence", table=rows)
    section.paragraphs.append(
        "A full run."
        if full
        else "A quick run: small sizes, one or two rounds each. It says that all "
        "cases run and that directions hold; its times say little."
    )
    section.points += [_machine(record) for record in _distinct(records)]
    levels = {case.title: noise(case, record) for case, record in records}
    section.points += [
        f"{title}: rounds of the same side differ by up to {level:.2f} times (nine of ten pairs)."
        for title, level in levels.items()
        if level is not None
    ]
    section.points += [line for case, record in records for line in _means(case, record)]
    slower = [
        f"{case.title}, {found.ratio.what}: {times(found.times)}"
        for case, record in records
        for found in outcomes(case, record)
        if found.ratio.figure == "seconds" and found.times < 1 and not found.noisy
    ]
    section.points.append(f"It takes longer here: {'; '.join(slower) or 'nowhere'}.")
    return section


def _distinct(records: list[tuple[Case, Record]]) -> list[Record]:
    """Of records of the same revision and machine, the first."""
    return list({_machine(record): record for _, record in reversed(records)}.values())[::-1]


def _machine(record: Record) -> str:
    known = record["environment"]
    software = ", ".join(
        f"{name} {known[name]}"
        for name in ("python", "ray", "pyarrow", "numpy", "pandas", "polars", "duckdb")
    )
    day = time.strftime("%Y-%m-%d", time.gmtime(known["started"]))
    return (
        f"Revision {known['revision']}, on {day}: {known['cores']} cores, "
        f"{amount(known['memory'], 'pss')} of memory, Linux {known['kernel']}, {software}."
    )


def _section(case: Case, record: Record) -> Section:
    level = noise(case, record)
    load = ", ".join(f"{value:.1f}" for value in record["environment"]["load_before"])
    started = time.strftime("%Y-%m-%d %H:%M", time.gmtime(record["environment"]["started"]))
    section = Section(case.title, [case.what], table=_figures(case, record))
    section.points = [sentence(found, _rounds(record)) for found in outcomes(case, record)]
    section.points += _means(case, record)
    section.points += break_even(case, record) if case.axis else []
    section.points += [
        f"{side} did not run here: {why}." for side, why in record["missing"].items()
    ]
    for ends in (record["died"], record["failed"]):
        section.points += [f"{where} did not finish: {why}." for where, why in ends.items()]
    section.paragraphs.append(
        f"Started on {started} UTC, in {record['seconds']:.0f} s; load average before: {load}. "
        + (
            f"Rounds of {case.sides[0]} differ from each other by up to {level:.2f} times."
            if level
            else _unknown_noise(case, record)
        )
    )
    if case.limits:
        section.paragraphs.append(case.limits)
    if record["points"]:
        section.picture = (f"{case.name}.svg", plot(case, record))
    return section


def _unknown_noise(case: Case, record: Record) -> str:
    if not case.counts:
        return "One round: the noise is not known."
    return f"Counts: of {_rounds(record)} rounds the median, and the least and the most."


def _means(case: Case, record: Record) -> list[str]:
    """Geometric means over the points that end in the same words, for cases that ask for them."""
    lines = []
    for ending in case.means:
        base, *others = case.sides
        for side in others:
            for figure, word in (("seconds", "as quick as"), ("pss", "as little memory as")):
                found = [
                    sides[base][figure] / sides[side][figure]
                    for point, sides in record["points"].items()
                    if point.endswith(ending) and base in sides and side in sides
                ]
                if found:
                    lines.append(
                        f"Geometric mean over {len(found)} points “{ending}”: {side} is "
                        f"{geometric_mean(found):.2f} times {word} {base}; least "
                        f"{min(found):.2f}, most {max(found):.2f}."
                    )
    return lines


def _rounds(record: Record) -> int:
    return max((len(f) for sides in record["runs"].values() for f in sides.values()), default=0)


def _figures(case: Case, record: Record) -> Table:
    if case.counts:
        return _counted(case, record)
    rows = [HEADER]
    for point, sides in record["points"].items():
        for side in case.sides:
            if side in sides:
                found = sides[side]
                said = {name: amount(found[name], name) for name in COLUMNS if name in found}
                low, high = (
                    amount(found.get(f"seconds_{end}", found["seconds"]), "seconds")
                    for end in ("low", "high")
                )
                row = [point, side, f"{found['n']:.0f}", said["seconds"], f"{low} to {high}"]
                rows.append(
                    row + [said.get(name, "") for name in ("cpu", "pss", "copied", "faults")]
                )
    return rows


def _counted(case: Case, record: Record) -> Table:
    """The figures of a case that only counts: medians, and the least and the most of all rounds."""
    rows = [["point", "side", "n", *case.counts.values()]]
    for point, sides in record["points"].items():
        for side in (each for each in case.sides if each in sides):
            row = [point, side, f"{sides[side]['n']:.0f}"]
            for name in case.counts:
                found = [f[name] for f in record["runs"][point][side] if name in f]
                row.append(_spread(sides[side][name], found, name) if found else "")
            rows.append(row)
    return rows


def _spread(median: float, found: list[float], figure: str) -> str:
    least, most = min(found), max(found)
    if least == most:
        return amount(median, figure)
    return f"{amount(median, figure)} ({amount(least, figure)} to {amount(most, figure)})"


# --- how it is written ---


def _markdown(section: Section) -> str:
    parts = [f"## {section.title}", *section.paragraphs]
    if section.points:
        parts.append("\n".join(f"- {point}" for point in section.points))
    if section.picture:
        parts.append(f"![{section.title}]({section.picture[0]})")
    if len(section.table) > 1:
        header, *rows = section.table
        lines = [header, ["---"] * len(header), *rows]
        parts.append("\n".join("| " + " | ".join(line) + " |" for line in lines))
    return "\n\n".join(parts)


def _html(section: Section) -> str:
    parts = [f"<h2>{html.escape(section.title)}</h2>"]
    parts += [f"<p>{html.escape(text)}</p>" for text in section.paragraphs]
    items = "".join(f"<li>{html.escape(point)}</li>" for point in section.points)
    parts.append(f"<ul>{items}</ul>" if items else "")
    if section.picture:
        data = base64.b64encode(section.picture[1].encode()).decode()
        title = html.escape(section.title)
        parts.append(f'<img alt="{title}" src="data:image/svg+xml;base64,{data}">')
    if len(section.table) > 1:
        header, *rows = section.table
        lines = [_html_row(header, "th"), *(_html_row(row, "td") for row in rows)]
        parts.append(
            f"<details open><summary>Figures</summary><table>{''.join(lines)}</table></details>"
        )
    return "\n".join(filter(None, parts))


def _html_row(cells: list[str], tag: str) -> str:
    return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"
