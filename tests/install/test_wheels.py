"""The wheels of `make wheels`, installed by pip as their users do, without the project's source."""

import zipfile
from pathlib import Path

import pytest

import zerrow_store

JOB = Path(__file__).with_name("job.py")
OLD = ["pyarrow==19.0.1", "ray==2.57.*", "numpy==1.26.*"]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("there", [[], OLD], ids=["empty", "old"])
def test_a_table_goes_through_ray_by_reference(wheel, environment, there):
    if there:
        environment.install(*there)
    environment.install(f"{wheel}[ray]")
    versions = [f"--{requirement.replace('==', '=').rstrip('*')}" for requirement in there]
    done = environment.run(JOB, "--installed", *versions)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("is not tested with") == 0, done.stderr


@pytest.mark.timeout(900)
def test_an_unknown_pyarrow_is_refused_with_those_that_are_known(wheel, environment):
    environment.install(wheel)
    environment.install("pyarrow==18.*")
    done = environment.run("-c", "import zerrow_store.native")
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert "built for pyarrow 19.0, " in last, last
    assert "pyarrow 18." in last, last


def test_what_a_wheel_has(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert not [name for name in names if name.endswith((".cc", ".h"))]
    assert not [name for name in names if "libarrow.so" in name or "libarrow_python.so" in name]
    modules = {Path(name).parent.name for name in names if "/_native." in name and ".so" in name}
    assert {
        "libarrow_1900",
        f"libarrow_{zerrow_store.native._build_info.SO_VERSIONS[0]}",
    } <= modules
    assert any(name.endswith("licenses/LICENSE") for name in names)
