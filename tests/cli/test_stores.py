"""Which stores a command is about, with a cluster of this test's own."""

from typing import Any

import pytest

from tests.helpers.python import zerrow
from zerrow_store.cli import stores
from zerrow_store.cli.objects import object_rows
from zerrow_store.cli.origins import add_origins
from zerrow_store.cli.rows import Wanted
from zerrow_store.cli.stores import Node, Origin, local_store, select
from zerrow_store.errors import ObjectLostError, StoreUnavailableError
from zerrow_store.protocol.reports import ObjectInfo

NODES = [Node(f"{digit}a" * 28, f"10.0.0.{digit}", f"host{digit}") for digit in range(1, 4)]
LISTED = [ObjectInfo(b"\x01", 10, 1.0, 0, False, 0, b"\x07", 5, False, False)]
COPIED = [ObjectInfo(b"\x01", 10, 1.0, 0, False, 0, b"", 0, False, True)]


class Cluster:
    """Of three nodes: one answers, one has a copy, one has no store."""

    answers: "dict[str, Any]" = {  # noqa: RUF012
        NODES[0].id: LISTED,
        NODES[1].id: COPIED,
        NODES[2].id: StoreUnavailableError("none"),
    }

    def __init__(self) -> None:
        self.asked_for: set[bytes] = set()

    def nodes(self):
        return NODES

    def ask(self, node, what):
        assert what == "list"
        answer = self.answers[node.id]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def origins(self, references, *, sites):
        assert not sites
        self.asked_for = set(references)
        return {b"\x07": Origin("job", "function", "site")}


class EntryPoint:
    name = "ray"

    def __init__(self, found):
        self._found = found

    def load(self):
        if isinstance(self._found, Exception):
            raise self._found
        return self._found


@pytest.fixture
def cluster(monkeypatch):
    made = Cluster()
    finds = [ModuleNotFoundError("no Ray"), lambda address: None, lambda address: made]
    found = [EntryPoint(each) for each in finds]
    monkeypatch.setattr(stores, "entry_points", lambda group: found)
    return made


def test_all_nodes_of_a_cluster_are_asked_and_objects_have_one_reference(cluster):
    selection = select(None, None, None)
    rows = object_rows(selection)
    assert [(row["node"], row["node_ip"], row["copy"]) for row in rows] == [
        (NODES[0].id, "10.0.0.1", False),
        (NODES[1].id, "10.0.0.2", True),
    ]
    assert [row["object_ref"] for row in rows] == ["07", "07"]
    add_origins(rows, selection, Wanted())
    assert cluster.asked_for == set()
    add_origins(rows, selection, Wanted(("function=function",)))
    assert cluster.asked_for == {b"\x07"}
    assert [row["function"] for row in rows] == ["function", "function"]


@pytest.mark.parametrize("wanted", ["2a2a", NODES[1].id, "10.0.0.2", "host2"])
def test_a_node_is_chosen(cluster, wanted):
    assert select(None, wanted, None).nodes == (NODES[1],)


def test_what_cannot_be_chosen_is_said(cluster, monkeypatch):
    with pytest.raises(ValueError, match="no node 'host'; there are 1a1a1a1a1a1a, 2a"):
        select(None, "host", None)
    with pytest.raises(ValueError, match="cannot be combined"):
        select("default", None, "10.0.0.1:6379")
    monkeypatch.setattr(stores, "entry_points", lambda group: [])
    with pytest.raises(ValueError, match="no cluster was found at"):
        select(None, None, "10.0.0.1:6379")
    assert select(None, None, None).cluster is None


def test_nodes_that_do_not_answer_are_named(cluster, monkeypatch, capsys):
    assert len(select(None, None, None).ask("list")) == 2
    assert capsys.readouterr().err == ""  # nobody has needed a store there
    lost = ObjectLostError("the machine at 10.0.0.1:1 does not answer")
    monkeypatch.setitem(Cluster.answers, NODES[0].id, lost)
    assert [answer.node for answer in select(None, None, None).ask("list")] == [NODES[1]]
    assert "node 1a1a1a1a1a1a is missing: the machine at 10.0.0.1:1" in capsys.readouterr().err
    monkeypatch.setitem(Cluster.answers, NODES[1].id, lost)
    with pytest.raises(StoreUnavailableError, match="no store of the cluster"):
        select(None, None, None).ask("list")


def test_a_ray_that_cannot_be_asked_is_said_and_no_cluster(monkeypatch, capsys):
    lacking = EntryPoint(ImportError("it lacks a name"))
    monkeypatch.setattr(stores, "entry_points", lambda group: [lacking])
    assert select(None, None, None).cluster is None
    assert "ray cannot be asked for a cluster: it lacks a name" in capsys.readouterr().err


def test_where_it_is_not_known_which_cluster_is_meant_the_default_store_is(monkeypatch, capsys):
    def find(address):
        raise ValueError("several run here")

    monkeypatch.setattr(stores, "entry_points", lambda group: [EntryPoint(find)])
    monkeypatch.setattr(stores, "running_stores", lambda: ["other"])
    with pytest.raises(ValueError, match="several run here"):
        select(None, None, None)
    monkeypatch.setattr(stores, "running_stores", lambda: ["default", "other"])
    assert select(None, None, None).name == "default"
    assert "several run here. Showing the store default instead" in capsys.readouterr().err
    with pytest.raises(ValueError, match="several run here"):
        select(None, "node", None)


def test_the_store_of_this_machine(name, monkeypatch):
    assert local_store("mine") == "mine"
    monkeypatch.setattr(stores, "running_stores", lambda: [name])
    assert local_store(None) == name
    monkeypatch.setattr(stores, "running_stores", lambda: [name, "other"])
    assert local_store(None) == "default"


def test_an_address_that_is_said_is_no_guess():
    done = zerrow("status", RAY_ADDRESS="127.0.0.1:9")
    assert done.returncode == 1
    assert "no Ray answers" in done.stderr
