"""The Python suite in a guest: the store's own tests, over the module instead of the arena.

Python, its packages and the project come from the host's root, read-only over 9p; what is written
goes to a tmpfs. The arena serves nothing but copies, and the tests say how much of what they
publish may have been copied: the edges. Left out is what takes minutes in emulation with data
too small to be moved; tests/kernelzero/test_emulated.py has that too.
"""

import os
import shlex
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MODULES = ("9pnet_virtio", "9p")
TESTS = (
    "tests/kernelzero/test_moving.py",
    "tests/kernelzero/test_rooms.py",
    "tests/kernelzero/test_store.py",
    "tests/sipc/test_sharing.py",
    "tests/sipc/test_round_trip.py::test_record_batches",
    "tests/sipc/test_processes.py",
    "tests/node/test_objects.py",
    "--deselect=tests/node/test_objects.py::test_thousands_of_objects_leave_nothing",
)
QEMU = ("-virtfs", "local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap")
_MOUNT = """
mkdir /host && mount -t 9p -o trans=virtio,version=9p2000.L,ro,cache=loose,msize=500000 host /host
mount -t proc proc /host/proc; mount -t devtmpfs dev /host/dev
mkdir -p /host/dev/shm /host/dev/pts; mount -t tmpfs tmpfs /host/dev/shm
insmod /kernelzero.ko
"""
_ENVIRONMENT = {
    "PATH": "/usr/bin:/bin",
    "HOME": "/dev/shm",
    "TMPDIR": "/dev/shm",
    "PYTHONDONTWRITEBYTECODE": "1",
    "HYPOTHESIS_STORAGE_DIRECTORY": "/dev/shm/hypothesis",
    "ZERROW_TEST_BACKEND": "kernelzero",
    "ZERROW_CAPTURE_ARROW": "0",
    "ZERROW_CAPTURE_NUMPY": "0",
    "ZERROW_KERNELZERO": "on",
    "ZERROW_ARENA_CAPACITY": "1GiB",
    "ZERROW_SPILL_DIR": "off",
}
# The watchdog's patience is for a machine, not for an emulator.
_PYTEST = "-m pytest -q -x -p no:cacheprovider --color=no -o timeout=900"


def interpreter(given: Path | None) -> Path:
    """Return the Python that has the project's packages."""
    python = given or ROOT / ".venv/bin/python"
    if not python.exists():
        sys.exit(f"no {python}: `make test-kernel` makes it, or give another with --python")
    return python.absolute()


def script(python: Path) -> str:
    """Return what the guest's shell runs."""
    environment = _ENVIRONMENT | {"PYTHONPATH": os.environ.get("PYTHONPATH", str(ROOT))}
    assignments = " ".join(f"{name}={shlex.quote(value)}" for name, value in environment.items())
    doctor = f"{python} -m zerrow_store.cli.main doctor | grep ^kernelzero"
    tests = f"{python} {_PYTEST} {' '.join(TESTS)}"
    command = shlex.quote(f"cd {ROOT} && {doctor} && {tests}")
    return f"""{_MOUNT}
chroot /host /usr/bin/env -i {assignments} /bin/sh -c {command}; echo KZ-EXIT $?
rmmod kernelzero; echo KZ-RMMOD $?"""
