"""In a container as deploy/raycluster.yaml asks for: which parts of the store work there."""

import json
import os
import sys
from pathlib import Path

import pytest
import yaml

from tests.helpers.capabilities import needs_sandboxes
from tests.helpers.pods import pod_view, refuse_what_containers_may_not, run

ROOT = Path(__file__).parents[2]
JOB = ROOT / "tests" / "install" / "job.py"
CLUSTER = yaml.safe_load((ROOT / "deploy" / "raycluster.yaml").read_text())

pytestmark = needs_sandboxes


(CONTAINER,) = CLUSTER["spec"]["workerGroupSpecs"][0]["template"]["spec"]["containers"]
ENVIRON = {each["name"]: each["value"] for each in CONTAINER["env"]}


def mounts() -> list[str]:
    assert CONTAINER["securityContext"] == {
        "runAsNonRoot": True,
        "runAsUser": 1000,
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    return [each["mountPath"] for each in CONTAINER["volumeMounts"]]


def test_what_the_doctor_says(tmp_path: Path) -> None:
    done = run(
        [sys.executable, "-m", "zerrow_store.cli.main", "doctor", "--format", "json"],
        refuse_what_containers_may_not,
        pod_view(tmp_path, *mounts()),
        **ENVIRON,
    )
    checks = {check["check"]: check for check in json.loads(done.stdout)}
    assert done.returncode == 0, done.stderr
    missing = {name for name, check in checks.items() if not check["ok"]}
    assert missing - {"kernelzero", "drawing of DAGs"} == {
        "huge pages",
        "sandbox: namespaces",
        "sandbox: memory and process limits",
    }


@pytest.mark.timeout(900)
def test_tables_go_through_ray_by_reference(tmp_path: Path) -> None:
    done = run(
        [sys.executable, JOB],
        refuse_what_containers_may_not,
        pod_view(tmp_path, *mounts()),
        PYTHONPATH=os.pathsep.join([str(ROOT), str(ROOT / "integrations")]),
        **ENVIRON,
    )
    assert done.returncode == 0, done.stderr


FILL = """
import sys
import pyarrow as pa
import zerrow_store
from zerrow_store.cli.main import main

assert main(["start", "--memory", "64MiB"]) == 0
client = zerrow_store.connect()
try:
    ids = [client.put(pa.table({"x": pa.array(range(n, n + (1 << 20)))})) for n in range(12)]
except zerrow_store.StoreFullError:
    print("full")
else:
    assert [client.get(each)["x"][0].as_py() for each in ids] == list(range(12))
    print("spilled", client.stats().bytes_spilled)
"""


@pytest.mark.parametrize(
    ("there", "outcome"), [(["/tmp", "/var/tmp"], "spilled"), (["/tmp"], "full")]
)
def test_a_volume_at_var_tmp_is_where_it_spills(
    tmp_path: Path, there: list[str], outcome: str
) -> None:
    assert set(there) <= set(mounts())
    view = pod_view(tmp_path, *there)
    done = run([sys.executable, "-c", FILL], refuse_what_containers_may_not, view, **ENVIRON)
    assert done.returncode == 0, done.stderr
    said = done.stdout.split("\n")[1].split()
    assert said[0] == outcome, done.stdout
    if outcome == "spilled":
        assert int(said[1]) > 0
