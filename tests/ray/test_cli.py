"""The `zerrow` command in a cluster, as its user runs it."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pyarrow as pa
import pyarrow.compute as pc
import pytest
import ray
import yaml
from ray.cluster_utils import Cluster

import zerrow_ray
from tests.helpers.rays import ROWS, make
from tests.helpers.waiting import eventually
from zerrow_ray.cli import cluster as of_ray
from zerrow_ray.cli.call_sites import of_frames, of_traceback
from zerrow_ray.cli.cluster import RayCluster, find
from zerrow_ray.cli.ray_cli_compat import ControlStore
from zerrow_ray.cluster import location_key
from zerrow_ray.config import store_name
from zerrow_ray.ray_compat import kv_get
from zerrow_store.cli.stores import Node
from zerrow_store.errors import StoreUnavailableError
from zerrow_store.protocol.messages import Report
from zerrow_store.protocol.sockets import running_stores

NBYTES = 8 * ROWS
RECORDED = ("RAY_record_ref_creation_sites", "RAY_record_task_actor_creation_sites")


@ray.remote
def born(n: int) -> pa.Table:
    return make(n)


@ray.remote
def total(table: pa.Table) -> Any:
    return pc.sum(table["x"]).as_py()


@ray.remote
class Keeper:
    def put(self) -> Any:
        self.ref = ray.put(make())
        return [self.ref]


class Site:
    """A cluster of two nodes, and objects in it; `born` lies on the second node, with a copy on
    the first.
    """

    def __init__(self, cluster: Cluster) -> None:
        self.address = cluster.address
        self.cluster = cluster
        self.head, self.other = (node.node_id for node in (cluster.head_node, self._add()))
        zerrow_ray.init(address=cluster.address, log_to_driver=False, logging_level="error")
        ray.get(born.options(resources={"other": 1}).remote(0))  # which starts the store there
        for node in (self.head, self.other):
            eventually(lambda node=node: kv_get(location_key(node)), "both agents serve")
        self.put = ray.put(make())
        self.born = self._born()
        self.keeper = Keeper.options(resources={"head": 1}).remote()
        (self.kept,) = ray.get(self.keeper.put.remote())
        assert ray.get(total.options(resources={"head": 1}).remote(self.born)) == sum(range(ROWS))

    def _add(self) -> Any:
        return self.cluster.add_node(num_cpus=2, resources={"other": 100})

    def _born(self) -> Any:
        """Until the agents know each other, results take Ray's own path."""
        refs = []

        def is_in_the_store() -> bool:
            refs[:] = [born.options(resources={"other": 1}).remote(0)]
            ray.wait(refs)
            return any(row["object_ref"] == refs[0].hex() for row in self.rows("objects"))

        eventually(is_in_the_store, "a result goes by reference")
        return refs[0]

    def run(self, *arguments: str, **environ: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "zerrow_store.cli.main", *arguments]
        env = os.environ | {"RAY_ADDRESS": self.address} | environ
        return subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)

    def rows(self, *arguments: str) -> list[dict[str, Any]]:
        done = self.run(*arguments, "--format", "json")
        assert (done.returncode, done.stderr) == (0, "")
        rows: list[dict[str, Any]] = json.loads(done.stdout)
        return rows


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with pytest.MonkeyPatch.context() as patch:
        for name in RECORDED:
            patch.setenv(name, "1")
        head = {"num_cpus": 2, "resources": {"head": 100}, "include_dashboard": False}
        cluster = Cluster(initialize_head=True, head_node_args=head)
        yield Site(cluster)
        ray.shutdown()
        cluster.shutdown()


def test_by_default_all_nodes_are_shown(site):
    rows = site.rows("status")
    assert {row["node"] for row in rows} == {site.head, site.other}
    assert {row["node_ip"] for row in rows} == {site.cluster.head_node.node_ip_address}
    figures = zerrow_ray.stats().nodes
    for row in rows:
        assert row["bytes_stored"] == figures[row["node"]].bytes_stored > 0
    header, *lines = site.run("status").stdout.splitlines()
    assert header.startswith("NODE ")
    assert {line.split()[0] for line in lines} == {site.head[:12], site.other[:12]}
    shown = yaml.safe_load(site.run("memory", "--format", "yaml").stdout)
    assert {row["node"] for row in shown} == {site.head, site.other}


def test_one_node_is_chosen_by_id_address_or_name(site):
    host = site.cluster.head_node.node_ip_address
    assert [row["node"] for row in site.rows("status", "--node", site.other)] == [site.other]
    assert [row["node"] for row in site.rows("status", "--node", site.head[:8])] == [site.head]
    assert len(site.rows("status", "--node", host)) == 2
    (row,) = site.rows("status", "--filter", f"node={site.other}")
    assert row["node"] == site.other
    wrong = site.run("status", "--node", "zzz")
    assert wrong.returncode == 1
    assert site.head[:12] in wrong.stderr
    named = site.run("status", "--name", store_name(site.head), "--format", "json")
    assert json.loads(named.stdout)["name"] == store_name(site.head)


def test_objects_are_found_in_ray_memory(site):
    rows = site.rows("objects")
    by_ref = {row["object_ref"]: row for row in rows if not row["copy"]}
    assert {site.put.hex(), site.born.hex(), site.kept.hex()} <= set(by_ref)
    assert by_ref[site.put.hex()]["node"] == site.head
    assert by_ref[site.put.hex()]["pid"] == os.getpid()
    assert by_ref[site.born.hex()]["node"] == site.other
    (copy,) = [row for row in rows if row["copy"]]
    assert (copy["node"], copy["object_ref"]) == (site.head, site.born.hex())
    command = [str(Path(sys.executable).with_name("ray")), "memory", "--address", site.address]
    listed = subprocess.run(command, capture_output=True, text=True, timeout=120).stdout
    for ref in (site.put, site.born, site.kept):
        assert ref.hex() in listed
        assert ref.hex() in site.run("objects").stdout


def test_memory_is_summed_up_by_what_ray_knows(site):
    job = ray.get_runtime_context().get_job_id()
    eventually(lambda: "born" in functions(site), "Ray has heard of the tasks")
    assert functions(site) == {
        "(driver)": NBYTES,
        "born": 2 * NBYTES,  # with the copy
        "Keeper.put": NBYTES,
    }
    (row,) = site.rows("memory", "--group-by", "job")
    assert (row["job"], row["objects"], row["bytes"]) == (job, 4, 4 * NBYTES)
    rows = site.rows("memory", "--group-by", "node", "--sort-by", "node")
    assert [(row["node"], row["objects"]) for row in rows] == sorted(
        [(site.head, 3), (site.other, 1)]
    )
    sites = {
        row["call_site"].rpartition(":")[0]
        for row in site.rows("memory", "--group-by", "call_site")
    }
    assert {f"{__file__}:__init__", f"{__file__}:is_in_the_store"} <= sites
    (row,) = site.rows("objects", "--filter", "function=Keeper.put")
    assert row["object_ref"] == site.kept.hex()


def functions(site: Site) -> dict[str, int]:
    rows = site.rows("memory", "--group-by", "function")
    return {row["function"]: row["bytes"] for row in rows}


def test_a_node_of_another_machine_is_asked_by_its_agent(site):
    there = RayCluster(ControlStore(site.address))
    elsewhere = RayCluster(ControlStore(site.address))
    elsewhere._here = set()
    reports = [what for what in get_args(Report) if what != "history"]  # grows meanwhile
    for node in there.nodes():
        assert store_name(node.id) in running_stores()
        for what in reports:
            here, far = (cluster.ask(node, what) for cluster in (there, elsewhere))
            assert type(here) is type(far)
            assert not isinstance(here, list) or len(here) == len(far)
        assert elsewhere.ask(node, "list") == there.ask(node, "list")
        assert elsewhere.ask(node, "copied_tables") == there.ask(node, "copied_tables")
        far, here = (cluster.ask(node, "history")[-1] for cluster in (elsewhere, there))
        assert far.bytes_stored == here.bytes_stored
    with pytest.raises(StoreUnavailableError):
        elsewhere.ask(Node("ab" * 28, "127.0.0.1", "nowhere"), "stats")


def test_the_report_is_about_all_nodes(site, tmp_path):
    path = tmp_path / "report.html"
    assert site.run("report", str(path)).returncode == 0
    html = path.read_text()
    for said in (site.head[:12], site.other[:12], "Keeper.put", "(driver)"):
        assert said in html
    assert html.count("<polyline") == 14


def test_ray_without_grpc_has_all_but_the_call_sites_of_puts(site, tmp_path):
    (tmp_path / "grpc.py").write_text("raise ImportError('it is not installed')")
    arguments = ("objects", "--detail", "--format", "json")
    paths = [str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])]
    done = site.run(*arguments, PYTHONPATH=os.pathsep.join(paths))
    assert (done.returncode, done.stderr) == (0, "")
    rows = {row["object_ref"]: row for row in json.loads(done.stdout)}
    assert rows[site.put.hex()]["function"] == "(driver)"
    assert rows[site.put.hex()]["call_site"] == ""
    assert __file__ in rows[site.born.hex()]["call_site"]


def test_an_address_at_which_there_is_no_ray(site):
    wrong = site.run("status", RAY_ADDRESS="127.0.0.1:9")
    assert wrong.returncode == 1
    assert "no Ray answers at" in wrong.stderr
    told = site.run("status", "--address", site.address, "--format", "json", RAY_ADDRESS="")
    assert len(json.loads(told.stdout)) == 2


def test_without_ray_there_is_no_cluster(site, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(of_ray, "find_addresses", lambda address: [])
    assert find(None) is None
    monkeypatch.setattr(of_ray, "find_addresses", lambda address: ["127.0.0.1:9"])
    assert find(None) is None  # Ray remembers one that has ended
    monkeypatch.setattr(of_ray, "find_addresses", lambda address: [site.address, "127.0.0.1:9"])
    assert find(None) is not None
    monkeypatch.setattr(of_ray, "find_addresses", lambda address: [site.address] * 2)
    with pytest.raises(ValueError, match="several Rays run here"):
        find(None)


def test_the_users_line_of_a_call_site():
    ray_file = ray.__file__.replace("__init__", "actor")
    plugin = zerrow_ray.__file__.replace("__init__", "ray_compat")
    elsewhere = "/opt/lib/python3.11/site-packages/ray/remote_function.py"
    frames = f"(put object)  | {ray_file}:f:1 | {elsewhere}:g:2 | /home/me/ray/job.py:<module>:3"
    assert of_frames(frames) == "/home/me/ray/job.py:<module>:3"
    assert of_frames(f"(task call)  | {plugin}:_remote:273") == ""
    assert of_frames("<unknown>") == ""
    on_its_node = (
        "(task call)  | /opt/ray/remote_function.py:_remote:1 | /me/remote_function.py:f:2"
    )
    assert of_frames(on_its_node) == "/me/remote_function.py:f:2"
    text = (
        f'  File "/job.py", line 10, in <module>\n    r=user()\n  File "/job.py", line 9, in user\n'
        f'    f()\n  File "{elsewhere}", line 176, in _remote_proxy\n    return\n'
        f'  File "{plugin}", line 273, in _remote\n    return submit()\n'
    )
    assert of_traceback(text) == "/job.py:user:9"
    assert of_traceback("") == ""
