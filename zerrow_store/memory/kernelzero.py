"""Whether the kernel module KernelZero can be used here, and if not, why exactly."""

import errno
import os
import platform
import re
from dataclasses import dataclass
from pathlib import Path

from zerrow_store.errors import KernelZeroError

DEVICE = Path("/dev/kernelzero")
_MODULE = Path("/sys/module/kernelzero")
_TESTED = re.compile(r"6\.(1|12)\.")


@dataclass(frozen=True)
class KernelZero:
    """What was found. version: the module's, None if it cannot be used; finding: for people."""

    version: int | None
    finding: str

    @property
    def available(self) -> bool:
        """Whether memory can be moved."""
        return self.version is not None


def probe() -> KernelZero:
    """Ask the kernel module what it is."""
    from zerrow_store.native import _native

    kernel = platform.release()
    try:
        answer = _native.kernelzero_query()
    except OSError as error:
        return KernelZero(None, explain(error, kernel))
    return KernelZero(answer["version"], f"available: version {answer['version']}, Linux {kernel}")


def explain(error: OSError, kernel: str) -> str:
    """Say why the module did not answer."""
    if error.errno in (errno.ENOENT, errno.ENXIO, errno.ENODEV):
        if _MODULE.exists():
            return f"the module is loaded, but there is no {DEVICE} here (a container without it?)"
        if not _TESTED.match(kernel):
            return (
                f"no module is loaded, and Linux {kernel} is untested: 6.1 and 6.12 of Debian are"
            )
        return "no module is loaded (modprobe kernelzero; kmod/README.md says how to install it)"
    if error.errno in (errno.EACCES, errno.EPERM):
        return (
            f"no permission to open {DEVICE}: its group is for whom may (adduser USER kernelzero)"
        )
    if error.errno in (errno.ENOSYS, errno.ENOTTY):
        return f"{DEVICE} is of a module that this version does not know"
    return f"{DEVICE}: {os.strerror(error.errno or 0)}"


def wanted(mode: str) -> bool:
    """Whether memory is to be moved. Raises KernelZeroError if it has to be, and cannot."""
    if mode == "off":
        return False
    found = probe()
    if mode == "on" and not found.available:
        raise KernelZeroError(f"ZERROW_KERNELZERO=on: {found.finding}")
    return found.available
