"""The files in deploy/: their figures follow the rule of docs/clusters.md, and Ray takes them."""

import json
import os
import subprocess
from pathlib import Path

import jsonschema
import pytest
import ray
import yaml

from zerrow_store.budget import default_budget
from zerrow_store.sizes import parse_size

DEPLOY = Path(__file__).parents[2] / "deploy"
UP = yaml.safe_load((DEPLOY / "ray-up.yaml").read_text())
MACHINE = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def check_shares(node: int, rays_own: int, heaps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ZERROW_MEMORY", raising=False)
    monkeypatch.setattr("zerrow_store.budget.memory_limit", lambda: node)
    assert rays_own == pytest.approx(0.1 * node, rel=1e-5)
    assert heaps == pytest.approx(0.4 * node, rel=1e-5)
    assert rays_own + default_budget(rays_own) + heaps <= node


def test_the_shares_of_kuberays_pods(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = yaml.safe_load((DEPLOY / "raycluster.yaml").read_text())["spec"]
    groups = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
    for group in groups:
        start = group["rayStartParams"]
        (container,) = group["template"]["spec"]["containers"]
        node = parse_size(container["resources"]["limits"]["memory"].replace("Gi", "GiB"))
        assert container["resources"]["limits"] == container["resources"]["requests"]
        check_shares(node, int(start["object-store-memory"]), int(start["memory"]), monkeypatch)
        volumes = {volume["name"]: volume for volume in group["template"]["spec"]["volumes"]}
        for mount in container["volumeMounts"]:
            assert volumes[mount["name"]]["emptyDir"].get("medium") is None
    assert len(groups) == 2


def test_the_image_has_the_cluster_s_ray() -> None:
    spec = yaml.safe_load((DEPLOY / "raycluster.yaml").read_text())["spec"]
    assert (
        f"FROM rayproject/ray:{spec['rayVersion']}-py311\n" in (DEPLOY / "Dockerfile").read_text()
    )


def test_ray_up_takes_the_file() -> None:
    schema = Path(ray.__file__).parent / "autoscaler" / "ray-schema.json"
    jsonschema.validate(UP, json.loads(schema.read_text()))


@pytest.mark.parametrize("commands", ["head_start_ray_commands", "worker_start_ray_commands"])
def test_the_shares_that_ray_up_starts_nodes_with(
    commands: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = tmp_path / "said"
    (tmp_path / "zerrow" / "bin").mkdir(parents=True)
    stand_in = tmp_path / "zerrow" / "bin" / "ray"
    stand_in.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {said}\n')
    stand_in.chmod(0o755)
    environ = os.environ | {"HOME": str(tmp_path), "RAY_HEAD_IP": "127.0.0.1"}
    for command in UP[commands]:
        subprocess.run(["bash", "-c", command], env=environ, check=True)
    words = said.read_text().split()
    assert words[0] == "start"
    options = dict(word.split("=", 1) for word in words if "=" in word)
    rays_own, heaps = int(options["--object-store-memory"]), int(options["--memory"])
    check_shares(MACHINE, rays_own, heaps, monkeypatch)
