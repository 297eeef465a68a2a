"""The tests that need a device, over one that is emulated in the test process by copying.

In QEMU the same tests run over the module itself (kmod/tests/python_guest.py).
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.python import run_python

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
MOVING = {
    "ZERROW_TEST_BACKEND": "kernelzero",
    "ZERROW_CAPTURE_ARROW": "0",
    "ZERROW_CAPTURE_NUMPY": "0",
    "ZERROW_KERNELZERO": "on",
}


@pytest.fixture(scope="module")
def emulation(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Build the stand-in; returns the environment in which it is the device."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler")
    library = tmp_path_factory.mktemp("emulation") / "device.so"
    options = ["-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", f"-I{ROOT / 'kmod'}"]
    source = HERE / "emulated_device.c"
    subprocess.run([compiler, *options, "-o", library, source, "-ldl"], check=True)
    return os.environ | {"LD_PRELOAD": str(library)}


@pytest.mark.parametrize(
    "tests",
    [
        ["kernelzero/test_moving.py", "kernelzero/test_rooms.py", "kernelzero/test_store.py"],
        ["sipc/test_sharing.py", "sipc/test_round_trip.py", "sipc/test_lifetime.py"],
        ["node/test_objects.py", "sipc/test_processes.py"],
    ],
    ids=["moving", "messages", "objects"],
)
def test_conformance(emulation: dict[str, str], tests: list[str]) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, *(str(HERE.parent / test) for test in tests)],
        cwd=ROOT,
        env=emulation | MOVING,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert "skipped" not in done.stdout, done.stdout[-2000:]


def run(code: str, environ: dict[str, str]) -> str:
    return run_python(PRELUDE + code, **environ)


PRELUDE = """
import numpy as np, pyarrow as pa
from zerrow_store import memory
from zerrow_store.memory.buffers import allocate
from zerrow_store.native import _native
memory.start()
"""


@pytest.mark.parametrize("error", ["EINVAL", "ENOSPC", "ENOMEM", "EFAULT", "EAGAIN"])
@pytest.mark.parametrize("at", [1, 2, 3])
def test_what_fails_half_way_is_copied(emulation: dict[str, str], error: str, at: int) -> None:
    import errno

    code = """
arrays = [np.full(1 << 20, n, np.uint8) for n in (1, 2, 3)]
for again in range(2):
    table = pa.table({str(n): pa.array(a) for n, a in enumerate(arrays)})
    encoded = _native.encode(table, move=True)
    assert _native.decode(encoded.message, encoded).equals(table)
    assert all((a == n + 1).all() for n, a in enumerate(arrays))
    print(encoded.bytes_copied)
del table, arrays
assert not np.zeros(1 << 20, np.uint8).any()
print(_native.deanon_stats()["moved"], _native.deanon_stats()["not_returned"])
"""
    environ = emulation | MOVING
    environ |= {"KERNELZERO_FAIL_AT": str(at), "KERNELZERO_FAIL_WITH": str(getattr(errno, error))}
    first, again, rest = run(code, environ).splitlines()
    assert int(first) >= 1 << 20
    assert int(again) >= 1 << 20  # what went half-way cannot go again
    assert rest == "0 0"


def test_what_is_freed_is_what_the_allocator_gave(emulation: dict[str, str]) -> None:
    """Arrow's debugging pool aborts on a size that is not the one which it was asked for."""
    code = """
from zerrow_store.native import _native
before = pa.total_allocated_bytes()
held = []
for on in (False, True, False):
    _native.track_allocations(on)
    for size in (100, 65_535, 65_536, 66_048, 80_000, 81_920, 524_288, 600_000, 3 << 20):
        for other in (0, 64, 65_536, 70_016, 600_064, 5 << 20):
            buffer = allocate(size, resizable=True)
            buffer.resize(other, shrink_to_fit=True)
            held.append(allocate(size, resizable=True))
for buffer in held:
    buffer.resize(70_016, shrink_to_fit=True)
assert pa.total_allocated_bytes() - before == 70_016 * len(held)
del buffer, held
assert pa.total_allocated_bytes() == before
"""
    run(code, emulation | MOVING | {"ARROW_DEBUG_MEMORY_POOL": "abort"})


def test_auto_uses_it_and_off_does_not(emulation: dict[str, str]) -> None:
    code = """
buffer = allocate(1 << 20)
print(_native.deanon_stats()["tracked"] > 0)
del buffer
"""
    auto = emulation | MOVING | {"ZERROW_KERNELZERO": "auto"}
    assert run(code, auto) == "True\n"
    assert run(code, auto | {"ZERROW_KERNELZERO": "off"}) == "False\n"
    assert run(code + "\nmemory.stop()\n" + code, auto) == "True\nFalse\n"


def test_tasks_of_ray_move_what_they_return(emulation: dict[str, str]) -> None:
    pytest.importorskip("ray")
    code = """
import numpy as np, pyarrow as pa, pyarrow.compute as pc, ray, zerrow_ray

@ray.remote
def make():
    return pa.table({"a": pc.add(pa.array(np.arange(1_000_000)), 1)})

@ray.remote
def more(table):
    return table.append_column("b", pc.multiply(table["a"], 2))

zerrow_ray.init(address="local", num_cpus=2, object_store_memory=100 << 20, log_to_driver=False)
table = ray.get(more.remote(make.remote()))
total = zerrow_ray.stats().total
print("sum", pc.sum(table["b"]).as_py())
print("copied", total.bytes_copied, "shared", total.bytes_shared)
"""
    found = dict(line.split(maxsplit=1) for line in run(code, emulation | MOVING).splitlines())
    assert int(found["sum"]) == 1_000_000 * 1_000_001
    copied, _, shared = found["copied"].split()
    assert int(copied) <= 4 * 8192
    assert 16_000_000 <= int(copied) + int(shared) < 17_000_000
