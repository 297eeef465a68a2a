"""A probe of the kernel module KernelZero, with the reason if it cannot be used."""

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
    """The outcome of a probe.

    Attributes
    ----------
    version
        The module's version; None if it cannot be used.
    finding
        The version, or the reason, in words.
    """

    version: int | None
    finding: str

    @property
    def available(self) -> bool:
        """Return whether memory can be moved."""
        return self.version is not None


def probe() -> KernelZero:
    """Query the kernel module."""
    from zerrow_store.native import _native

    kernel = platform.release()
    try:
        version = _native.kernelzero_version()
    except OSError as error:
        return KernelZero(None, explain(error, kernel))
    return KernelZero(version, f"available: version {version}, Linux {kernel}")


def explain(error: OSError, kernel: str) -> str:
    """Return the reason of a failed query."""
    if error.errno in (errno.ENOENT, errno.ENXIO, errno.ENODEV):
        if _MODULE.exists():
            return f"the module is loaded, but {DEVICE} is missing (a container without it?)"
        if not _TESTED.match(kernel):
            return f"no module is loaded. Linux {kernel} is not tested; Debian's 6.1 and 6.12 are"
        return "no module is loaded (modprobe kernelzero; kmod/README.md says how to install it)"
    if error.errno in (errno.EACCES, errno.EPERM):
        return (
            f"permission denied for {DEVICE}: add the user to group `kernelzero` "
            "(adduser USER kernelzero)"
        )
    if error.errno in (errno.ENOSYS, errno.ENOTTY):
        return f"{DEVICE} belongs to a module of an unsupported version"
    return f"{DEVICE}: {os.strerror(error.errno or 0)}"


def wanted(mode: str) -> bool:
    """Return whether memory is to be moved.

    Raises
    ------
    KernelZeroError
        The mode is "on", and the module cannot be used.
    """
    if mode == "off":
        return False
    found = probe()
    if mode == "on" and not found.available:
        raise KernelZeroError(f"ZERROW_KERNELZERO=on: {found.finding}")
    return found.available
