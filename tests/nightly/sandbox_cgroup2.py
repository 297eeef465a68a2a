"""The sandbox's tests of memory, processes and time with cgroup v2, in a guest of QEMU.

    python -m tests.nightly.sandbox_cgroup2 [test ...]

For machines that have v1. The kernel is one that `make test-kernel` has unpacked into kmod/.cache.
Python and the project come from the host's root, read-only over 9p. Emulated, so slow. Exits with
pytest's code.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
CACHE = Path(os.environ.get("ZERROW_KERNEL_CACHE", ROOT / "kmod/.cache"))
TESTS = (
    "tests/sandbox/test_escapes.py::test_a_fork_bomb",
    "tests/sandbox/test_escapes.py::test_a_memory_bomb",
    "tests/sandbox/test_escapes.py::test_blocking_for_ever",
    "tests/sandbox/test_escapes.py::test_no_new_namespaces_and_no_privileges",
    "tests/sandbox/test_ends.py::test_the_doctor_says_what_there_is",
    "tests/sandbox/test_ends.py::test_a_host_that_is_killed_takes_its_sandboxes_along",
    "tests/sandbox/test_results.py::test_kinds_of_arrow_data",
)
MODULES = ("virtio_pci", "9pnet_virtio", "9p")
INIT = """#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
for m in $(cat /modules); do insmod /lib/$m; done
mkdir /host
mount -t 9p -o trans=virtio,version=9p2000.L,ro,cache=loose,msize=500000 host /host
mount -t tmpfs tmpfs /host/run; cp /guest /host/run/guest; umount /proc /sys /dev
exec switch_root /host /bin/sh /run/guest
"""
GUEST = """
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
mkdir -p /dev/shm /dev/pts; mount -t tmpfs tmpfs /dev/shm; mount -t devpts devpts /dev/pts
mount -t cgroup2 none /sys/fs/cgroup
cd {root}
env -i {environment} {python} -m zerrow_store.cli.main doctor
env -i {environment} {python} -m pytest -q -x -p no:cacheprovider -o timeout=1500 {tests}
echo GUEST-EXIT $?
echo o > /proc/sysrq-trigger; sleep 60
"""


def with_dependencies(modules: Path) -> list[Path]:
    """Return the files of the modules, each after those that it needs."""
    files = {re.sub(r"\.ko.*", "", path.name): path for path in modules.rglob("*.ko*")}
    found: dict[str, Path] = {}

    def add(name: str) -> None:
        if name in files and name not in found:
            command = ["modinfo", "-F", "depends", str(files[name])]
            needed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            for each in needed.strip().split(","):
                add(each.strip())
            found[name] = files[name]

    for name in MODULES:
        add(name)
    return list(found.values())


def initramfs(kernel: Path, root: Path, tests: list[str]) -> Path:
    """Make the image that mounts the host's root and runs the tests there."""
    for name in ("bin", "dev", "proc", "sys", "lib"):
        (root / name).mkdir(parents=True)
    shutil.copy(
        shutil.which("busybox") or sys.exit("no busybox: install busybox-static"), root / "bin"
    )
    names = []
    for file in with_dependencies(kernel / "lib/modules"):
        shutil.copy(file, root / "lib")
        if file.suffix == ".xz":
            subprocess.run(["xz", "-d", "-f", root / "lib" / file.name], check=True)
        names.append(file.name.removesuffix(".xz"))
    (root / "modules").write_text("\n".join(names))
    environment = {
        "PATH": "/usr/bin:/bin:/usr/sbin:/sbin",
        "HOME": "/dev/shm",
        "TMPDIR": "/dev/shm",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONPATH": os.environ.get("PYTHONPATH", str(ROOT)),
    }
    guest = GUEST.format(
        root=ROOT,
        environment=" ".join(f"{name}={shlex.quote(v)}" for name, v in environment.items()),
        python=sys.executable,
        tests=" ".join(map(shlex.quote, tests)),
    )
    (root / "guest").write_text(guest)
    (root / "init").write_text(INIT)
    (root / "init").chmod(0o755)
    image = root.with_name("initramfs")
    subprocess.run(f"find . | cpio -o -H newc --quiet > {image}", shell=True, cwd=root, check=True)
    return image


def main() -> int:
    kernels = sorted(CACHE.glob("*/*/boot/vmlinuz-*"))
    if not kernels:
        sys.exit(
            f"no kernel in {CACHE}: `make test-kernel` unpacks one, or set ZERROW_KERNEL_CACHE"
        )
    with tempfile.TemporaryDirectory() as folder:
        image = initramfs(kernels[-1].parents[1], Path(folder, "root"), sys.argv[1:] or [*TESTS])
        command = ["nice", "qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-smp", "2"]
        command += ["-m", "3072", "-kernel", str(kernels[-1]), "-initrd", str(image)]
        command += ["-virtfs"]
        command += ["local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap"]
        command += ["-append", "console=ttyS0 panic=-1 mitigations=off loglevel=3 cgroup_no_v1=all"]
        command += ["-nographic", "-no-reboot"]
        guest = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        assert guest.stdout is not None
        code = 1
        for line in guest.stdout:
            text = line.decode(errors="replace").rstrip()
            print(text, flush=True)
            if text.startswith("GUEST-EXIT "):
                code = int(text.split()[1])
        guest.wait()
    return code


if __name__ == "__main__":
    sys.exit(main())
