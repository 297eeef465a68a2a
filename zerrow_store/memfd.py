"""Memory files that nobody can execute, as `vm.memfd_noexec=2` asks of all."""

import errno
import os

_NOEXEC_SEAL = 0x0008  # MFD_NOEXEC_SEAL, since Linux 6.3; Python has no name for it before 3.13


def create_memfd(name: str) -> int:
    """Return a descriptor of an empty memory file that takes seals, and is closed on exec."""
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        return os.memfd_create(name, flags | _NOEXEC_SEAL)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    return os.memfd_create(name, flags)
