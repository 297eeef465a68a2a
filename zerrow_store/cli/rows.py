"""Rows of a command's answer: which columns there are, which rows are wanted, in which order."""

import operator
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from zerrow_store.sizes import parse_size

Row = dict[str, Any]

_OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "!=": operator.ne,
    ">=": operator.ge,
    "<=": operator.le,
    "=": operator.eq,
    ">": operator.gt,
    "<": operator.lt,
}
_CONDITION = re.compile(r"\s*(\w+)\s*(!=|>=|<=|=|>|<)(.*)", re.DOTALL)
_TRUTH = {"yes": True, "true": True, "no": False, "false": False}


@dataclass(frozen=True)
class Column:
    """A column. is_size: bytes, which tables show in units; detail: tables show it if asked to."""

    name: str
    is_size: bool = False
    detail: bool = False


def columns(names: str, *, sizes: str = "", detail: str = "") -> tuple[Column, ...]:
    """Return columns by name, in order; `sizes` and `detail` say which of them are that."""
    return tuple(
        Column(name, name in sizes.split(), name in detail.split()) for name in names.split()
    )


@dataclass(frozen=True)
class Wanted:
    """Which rows are wanted, as a user says it: conditions like "bytes>1GiB", at most so many, in
    which order (numbers from the largest on), and whether all columns are.
    """

    conditions: tuple[str, ...] = ()
    limit: int | None = None
    sort_by: str | None = None
    detail: bool = False

    def needs(self, *names: str) -> bool:
        """Whether any of these columns is looked at."""
        looked_at = {_parsed(each)[0] for each in self.conditions} | {self.sort_by}
        return self.detail or bool(looked_at & set(names))

    def of(self, rows: Iterable[Row], known: Sequence[Column]) -> list[Row]:
        """Return the rows that are wanted. Raises ValueError for a column or value that is none."""
        conditions = [_condition(each, known) for each in self.conditions]
        kept = [row for row in rows if all(holds(row) for holds in conditions)]
        if self.sort_by is not None:
            column = _column(self.sort_by, known).name
            numbers = all(isinstance(row[column], int | float) for row in kept)
            kept.sort(key=lambda row: row[column], reverse=numbers)
        return kept[: self.limit]


def _condition(text: str, known: Sequence[Column]) -> Callable[[Row], bool]:
    name, compare, value = _parsed(text)
    column = _column(name, known)

    def holds(row: Row) -> bool:
        return compare(row[name], _value_like(row[name], value, column))

    return holds


def _parsed(text: str) -> tuple[str, Callable[[Any, Any], bool], str]:
    match = _CONDITION.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is no condition: write it like way=spill or bytes>1GiB")
    return match[1], _OPERATORS[match[2]], match[3].strip()


def _column(name: str, known: Sequence[Column]) -> Column:
    for column in known:
        if column.name == name:
            return column
    raise ValueError(f"no column {name!r}; there are {', '.join(each.name for each in known)}")


def _value_like(other: Any, text: str, column: Column) -> Any:
    """Return what a text stands for, of the type of another value of the column."""
    if isinstance(other, bool):
        if text.lower() not in _TRUTH:
            raise ValueError(f"{column.name} is yes or no, not {text!r}")
        return _TRUTH[text.lower()]
    if column.is_size:
        return parse_size(text)
    return float(text) if isinstance(other, int | float) else text
