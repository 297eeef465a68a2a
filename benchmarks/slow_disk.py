"""A disk of a given speed: a file system on a loop device, slowed down by the kernel.

Needs root, loop devices, mkfs.ext4, and the blkio controller of cgroup v1.
"""

import contextlib
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

_THROTTLES = [
    Path(f"/sys/fs/cgroup/blkio/blkio.throttle.{way}_bps_device") for way in ("read", "write")
]


@contextlib.contextmanager
def slow_disk(bandwidth: int, size: int) -> Iterator[Path]:
    """Yield a directory on a disk of `size` bytes, which reads and writes `bandwidth` bytes a
    second each. It is gone at the end.
    """
    with contextlib.ExitStack() as stack:
        parent = Path(stack.enter_context(tempfile.TemporaryDirectory(dir="/var/tmp")))
        image, directory = parent / "image", parent / "disk"
        directory.mkdir()
        with image.open("wb") as file:
            file.truncate(size)
        # Past the page cache, which would hide the disk's speed.
        device = _run("losetup", "--find", "--show", "--direct-io=on", image)
        stack.callback(_run, "losetup", "--detach", device)
        _run("mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0", device)
        _run("mount", device, directory)
        stack.callback(_run, "umount", directory)
        number = Path("/sys/block", Path(device).name, "dev").read_text().strip()
        for throttle in _THROTTLES:
            throttle.write_text(f"{number} {bandwidth}")
            stack.callback(throttle.write_text, f"{number} 0")
        yield directory


def _run(*command: str | Path) -> str:
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
