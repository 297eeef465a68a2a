"""Which stores a command is about: one of this machine, by its name, or those of a cluster's nodes.

Clusters are found by entry points (`GROUP`): what manages one offers a `Find`.
"""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any, Protocol

import click

from zerrow_store.client.observe import ask
from zerrow_store.errors import StoreUnavailableError, ZerrowError
from zerrow_store.protocol.messages import REQUESTS, Report
from zerrow_store.protocol.sockets import running_stores

GROUP = "zerrow_store.clusters"
"""Entry points: functions that are given an address, or None, and return a `Cluster`; None if they
know of no cluster here. They raise ValueError for an address that is none, or that is missing.
"""

DEFAULT = "default"
_AT_ONCE = 32


@dataclass(frozen=True)
class Node:
    """A cluster's node. id: in hexadecimal; host: its address; hostname: its name."""

    id: str
    host: str
    hostname: str


@dataclass(frozen=True)
class Origin:
    """Where what carries an object comes from; empty texts for what is not known."""

    job: str = ""
    function: str = ""
    call_site: str = ""


class Cluster(Protocol):
    """What a command asks of a cluster."""

    def nodes(self) -> list[Node]:
        """Return the nodes that are alive."""

    def ask(self, node: Node, what: Report) -> Any:
        """Return figures of a node's store. Raises ZerrowError; StoreUnavailableError if there is
        none.
        """

    def origins(self, references: Iterable[bytes], *, sites: bool) -> dict[bytes, Origin]:
        """Return where references come from; `sites`: with their call sites."""


@dataclass(frozen=True)
class Answer:
    """What a store has answered. node: None outside of clusters."""

    node: Node | None
    body: Any

    @property
    def node_id(self) -> str:
        """Of the store's node; empty outside of clusters."""
        return "" if self.node is None else self.node.id

    @property
    def place(self) -> dict[str, str]:
        """What a row of this store begins with."""
        return {} if self.node is None else {"node": self.node.id, "node_ip": self.node.host}


@dataclass(frozen=True)
class Selection:
    """The stores that a command is about. name: without a cluster, the store's."""

    name: str = DEFAULT
    cluster: Cluster | None = None
    nodes: tuple[Node, ...] = ()

    def ask(self, what: Report) -> list[Answer]:
        """Ask all stores; print the errors of single nodes. Raises ZerrowError if none answers."""
        if self.cluster is None:
            return [Answer(None, ask(self.name, REQUESTS[what]()))]
        cluster, answers = self.cluster, []
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            asked = [(node, pool.submit(cluster.ask, node, what)) for node in self.nodes]
        for node, answer in asked:
            try:
                answers.append(Answer(node, answer.result()))
            except StoreUnavailableError:
                pass  # nobody has needed it yet
            except ZerrowError as error:
                click.echo(f"zerrow: node {node.id[:12]} is missing: {error}", err=True)
        if not answers:
            raise StoreUnavailableError(
                "no store of the cluster answers. A node's store starts with its first table; "
                "--name selects a store outside of the cluster"
            )
        return answers

    def origins(self, references: Iterable[bytes], *, sites: bool) -> dict[bytes, Origin]:
        """Return where references come from, as far as a cluster knows; `sites`: with their call
        sites.
        """
        known = {reference for reference in references if reference}
        return {} if self.cluster is None else self.cluster.origins(known, sites=sites)


def select(name: str | None, node: str | None, address: str | None) -> Selection:
    """Return the store `name`; else all of the cluster at `address`, or of the one that is found
    here, or its `node` alone; else the default store. Raises ValueError.

    node: its id or the beginning of that, its address or its host's name.
    """
    if name is not None:
        if node is not None or address is not None:
            raise ValueError("--name, of this machine, cannot be combined with --node or --address")
        return Selection(name)
    try:
        cluster = next(_clusters(address), None)
    except ValueError as error:
        if node is not None or address is not None or DEFAULT not in running_stores():
            raise
        click.echo(f"zerrow: {error}. Showing the store {DEFAULT} instead", err=True)
        return Selection(DEFAULT)
    if cluster is None:
        if node is not None or address is not None:
            raise ValueError("no cluster was found" + (f" at {address}" if address else ""))
        return Selection(DEFAULT)
    nodes = cluster.nodes()
    found = [each for each in nodes if node is None or _is(each, node)]
    if not found:
        raise ValueError(f"no node {node!r}; there are {', '.join(each.id[:12] for each in nodes)}")
    return Selection(cluster=cluster, nodes=tuple(found))


def local_store(name: str | None) -> str:
    """Return the name of a store of this machine: by default the only one that runs, if it is the
    only one, else the default one.
    """
    if name is not None:
        return name
    running = running_stores()
    return running[0] if len(running) == 1 else DEFAULT


def _clusters(address: str | None) -> Iterator[Cluster]:
    for entry in entry_points(group=GROUP):
        try:
            find = entry.load()
        except ModuleNotFoundError:  # of an extra that is not installed
            continue
        except ImportError as error:
            click.echo(f"zerrow: {entry.name} cannot be asked for a cluster: {error}", err=True)
            continue
        cluster = find(address)
        if cluster is not None:
            yield cluster


def _is(node: Node, wanted: str) -> bool:
    return node.id.startswith(wanted) or wanted in (node.host, node.hostname)
