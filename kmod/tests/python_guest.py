"""The Python suites in a guest: the store's own tests.

Python, its packages and the project come from the host's root, read-only over 9p; what is written
goes to a tmpfs.

MOVING runs over the module instead of the arena, which serves nothing but copies; the tests say how
much of what they publish may have been copied: the edges. Left out is what takes minutes in
emulation with data too small to be moved; tests/kernelzero/test_emulated.py has that too.
HUGE asks for huge pages where they are forbidden or limited, and may change the machine's settings.
It needs no module, so that it runs on the oldest kernel too.
"""

import os
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MODULES = ("9pnet_virtio", "9p")
QEMU = ("-virtfs", "local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap")
_MOUNT = """
mkdir /host && mount -t 9p -o trans=virtio,version=9p2000.L,ro,cache=loose,msize=500000 host /host
mount -t proc proc /host/proc; mount -t sysfs sys /host/sys; mount -t devtmpfs dev /host/dev
mkdir -p /host/dev/shm /host/dev/pts; mount -t tmpfs tmpfs /host/dev/shm
mount --bind /cg /host/sys/fs/cgroup
"""
_MODULE = "insmod /kernelzero.ko", "rmmod kernelzero; echo KZ-RMMOD $?"
_ENVIRONMENT = {
    "PATH": "/usr/bin:/bin",
    "HOME": "/dev/shm",
    "TMPDIR": "/dev/shm",
    "PYTHONDONTWRITEBYTECODE": "1",
    "HYPOTHESIS_STORAGE_DIRECTORY": "/dev/shm/hypothesis",
    "ZERROW_ARENA_CAPACITY": "1GiB",
    "ZERROW_SPILL_DIR": "off",
}


@dataclass(frozen=True)
class Suite:
    """What is run, with which settings. check: of `zerrow doctor`, this is shown.

    module: whether it runs with KernelZero's module loaded.
    """

    tests: tuple[str, ...]
    environment: dict[str, str]
    check: str
    module: bool


MOVING = Suite(
    (
        "tests/kernelzero/test_moving.py",
        "tests/kernelzero/test_rooms.py",
        "tests/kernelzero/test_store.py",
        "tests/sipc/test_sharing.py",
        "tests/sipc/test_round_trip.py::test_record_batches",
        "tests/sipc/test_processes.py",
        "tests/node/test_objects.py",
        "--deselect=tests/node/test_objects.py::test_thousands_of_objects_leave_nothing",
    ),
    {
        "ZERROW_TEST_BACKEND": "kernelzero",
        "ZERROW_CAPTURE_ARROW": "0",
        "ZERROW_CAPTURE_NUMPY": "0",
        "ZERROW_KERNELZERO": "on",
    },
    "kernelzero",
    module=True,
)
HUGE = Suite(
    ("tests/memory/test_confined_huge_pages.py",),
    {"ZERROW_HUGE_PAGES": "auto", "ZERROW_TEST_GUEST": "1"},
    "huge pages",
    module=False,
)
# The watchdog's patience is for a machine, not for an emulator.
_PYTEST = "-m pytest -q -x -p no:cacheprovider --color=no -o timeout=900"


def interpreter(given: Path | None) -> Path:
    """Return the Python that has the project's packages."""
    python = given or ROOT / ".venv/bin/python"
    if not python.exists():
        sys.exit(f"no {python}: `make test-kernel` makes it, or give another with --python")
    return python.absolute()


def script(python: Path, suite: Suite) -> str:
    """Return what the guest's shell runs."""
    doctor = f"{python} -m zerrow_store.cli.main doctor | grep '^{suite.check}'"
    tests = f"{python} {_PYTEST} {' '.join(suite.tests)}"
    return in_host(f"{doctor} && {tests}", suite.environment, module=suite.module)


def in_host(command: str, environment: dict[str, str], *, module: bool) -> str:
    """Return what the guest's shell runs to run a command with the host's root, in the project."""
    path = os.environ.get("PYTHONPATH", str(ROOT))
    known = _ENVIRONMENT | environment | {"PYTHONPATH": path}
    assignments = " ".join(f"{name}={shlex.quote(value)}" for name, value in known.items())
    inside = shlex.quote(f"cd {ROOT} && {command}")
    load, unload = _MODULE if module else ("", "")
    # Moved over the guest's own root: who is in a chroot may make no user namespace.
    return f"""{_MOUNT}{load}
cd /host && mount --move . /
chroot . /usr/bin/env -i {assignments} /bin/sh -c {inside}; echo KZ-EXIT $?
{unload}"""
