"""Options that commands share."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import click

from zerrow_store.cli.output import FORMATS, print_rows
from zerrow_store.cli.rows import Column, Row, Wanted
from zerrow_store.cli.stores import DEFAULT, select

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Shape:
    """How rows are printed."""

    form: str
    wanted: Wanted

    def print(self, rows: list[Row], known: tuple[Column, ...]) -> None:
        """Print those rows that are wanted."""
        found = self.wanted.of(rows, known)
        print_rows(found, known, self.form, detail=self.wanted.detail)


def of_one_store(command: F) -> F:
    """Give a command `name`, of a store of this machine."""
    return click.option("--name", default=DEFAULT, show_default=True, help="The store's name.")(
        command
    )


def of_a_store_here(command: F) -> F:
    """Give a command `name`, of a store of this machine; None if it is not said."""
    return click.option("--name", help="The store's name (default: the only one).")(command)


def formatted(command: F) -> F:
    """Give a command `form`."""
    return click.option(
        "--format", "form", type=click.Choice(FORMATS), default="default", help="Output format."
    )(command)


def of_stores(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command its `selection`."""

    @click.option("--name", help="A store of this machine.")
    @click.option("--node", help="One node of the cluster: id, address or host name.")
    @click.option("--address", help="The cluster's address (default: as of Ray's commands).")
    @functools.wraps(command)
    def selecting(
        *args: Any, name: str | None, node: str | None, address: str | None, **rest: Any
    ) -> Any:
        return command(*args, selection=select(name, node, address), **rest)

    return selecting


def of_rows(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command its `shape`."""

    @formatted
    @click.option(
        "--filter", "conditions", multiple=True, help="Only rows with way=spill or bytes>1GiB."
    )
    @click.option("--limit", type=click.IntRange(min=0), help="Print at most N rows.")
    @click.option("--sort-by", help="A column: numbers descending, text ascending.")
    @click.option("--detail", is_flag=True, help="Show all columns.")
    @functools.wraps(command)
    def shaping(
        *args: Any,
        form: str,
        conditions: tuple[str, ...],
        limit: int | None,
        sort_by: str | None,
        detail: bool,
        **rest: Any,
    ) -> Any:
        shape = Shape(form, Wanted(conditions, limit, sort_by, detail))
        return command(*args, shape=shape, **rest)

    return shaping
