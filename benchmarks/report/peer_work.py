"""The work that peers are compared on: one reader, two filters, and four consumers of each.

The steps are those of everybody who hands Arrow tables from process to process; engines that have
tables of their own say the same in their words (`peer_sides.py`).
"""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

COLUMNS = ["l_suppkey", "l_quantity", "l_extendedprice", "l_discount", "l_shipmode"]
QUANTITIES = (24, 40)
TOP = 10

Answers = list[list[float]]
"""For each filter, what its consumers return."""


def read(path: str) -> pa.Table:
    return pq.read_table(path, columns=COLUMNS)


def keep(table: pa.Table, most: int) -> pa.Table:
    return table.filter(pc.field("l_quantity") < most)


def revenue(table: pa.Table) -> float:
    net = pc.multiply(table["l_extendedprice"], pc.subtract(1.0, table["l_discount"]))
    return float(pc.sum(net).as_py())


def by_supplier(table: pa.Table) -> float:
    """The most that a supplier has sold."""
    groups = table.group_by("l_suppkey").aggregate([("l_quantity", "sum")])
    return float(pc.max(groups["l_quantity_sum"]).as_py())


def by_mode(table: pa.Table) -> float:
    """The most that was shipped in one way."""
    groups = table.group_by("l_shipmode").aggregate([("l_quantity", "sum")])
    return float(pc.max(groups["l_quantity_sum"]).as_py())


def top(table: pa.Table) -> float:
    """The price that only `TOP` - 1 others exceed."""
    prices = table["l_extendedprice"]
    order = pc.select_k_unstable(prices, TOP, sort_keys=[("", "descending")])
    return float(prices.take(order)[TOP - 1].as_py())


CONSUMERS = (revenue, by_supplier, by_mode, top)


def expected(path: Path) -> Answers:
    """What pyarrow alone makes of it; kept beside the file."""
    known = path.with_suffix(".answers.json")
    if not known.exists():
        table = read(str(path))
        kept = [keep(table, most) for most in QUANTITIES]
        known.write_text(json.dumps([[consume(rows) for consume in CONSUMERS] for rows in kept]))
    answers: Answers = json.loads(known.read_text())
    return answers


def check(answers: Answers, wanted: Answers) -> None:
    """Raise AssertionError if the answers are not those of pyarrow alone."""
    for found, right in zip(answers, wanted, strict=True):
        close = [abs(a - b) <= 1e-9 * abs(b) for a, b in zip(found, right, strict=True)]
        assert all(close), (found, right)
