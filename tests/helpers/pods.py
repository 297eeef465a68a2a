"""Processes confined as a container is: made by bubblewrap, with a system call filter."""

import errno
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from zerrow_store.memfd import create_memfd
from zerrow_store.sandbox.launcher import find_bubblewrap
from zerrow_store.sandbox.seccomp import Filter

MASKED_EQ = 7
"""Of libseccomp: an argument's bits, and what they are."""

_NEW_NAMESPACES = (0x80, *(1 << bit for bit in (17, 25, 26, 27, 28, 29, 30)))
_REFUSED = """
acct add_key bpf chroot delete_module fanotify_init finit_module fsconfig fsmount fsopen fspick
get_mempolicy init_module io_uring_enter io_uring_register io_uring_setup ioperm iopl kcmp
kexec_file_load kexec_load keyctl lookup_dcookie mbind migrate_pages mount mount_setattr move_mount
move_pages open_by_handle_at open_tree perf_event_open pidfd_getfd pivot_root process_madvise
quotactl quotactl_fd reboot request_key set_mempolicy setdomainname sethostname setns settimeofday
clock_settime swapoff swapon syslog umount umount2 unshare userfaultfd uselib ustat vhangup
"""


def refuse_what_containers_may_not(rules: Filter) -> None:
    """Refuse what the default seccomp profile of Docker and containerd refuses to a container
    without capabilities.
    """
    for call in _REFUSED.split():
        rules.deny(call)
    for flag in _NEW_NAMESPACES:
        rules.deny("clone", (0, MASKED_EQ, flag, flag))
    rules.deny("clone3", code=errno.ENOSYS)


def run(
    command: Sequence[object],
    refuse: Callable[[Filter], None],
    view: Sequence[object],
    **environ: str,
) -> "subprocess.CompletedProcess[str]":
    """Run a command in namespaces of its own, whose processes all end with it.

    view: bubblewrap's arguments that say what is there. refuse: makes the filter's rules.
    """
    rules = Filter()
    program = create_memfd("pod")
    try:
        refuse(rules)
        rules.export(program)
        os.lseek(program, 0, os.SEEK_SET)
        confined = [find_bubblewrap(), *view, "--unshare-pid", "--die-with-parent"]
        return subprocess.run(
            [*map(str, confined), "--seccomp", str(program), *map(str, command)],
            pass_fds=[program],
            env={**os.environ, **environ},
            capture_output=True,
            text=True,
            timeout=800,
        )
    finally:
        os.close(program)
        rules.close()


def pod_view(volumes: Path, *mounts: str) -> list[object]:
    """Return bubblewrap's arguments for a container of a pod: a read-only root, an ordinary user,
    no capabilities, loopback, and each of `mounts` as an empty directory below `volumes`.
    """
    view: list[object] = ["--unshare-user", "--unshare-net", "--unshare-ipc", "--unshare-uts"]
    view += ["--uid", 1000, "--gid", 1000, "--cap-drop", "ALL"]
    view += ["--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/dev/shm"]
    # What pytest keeps lies below /tmp, which is among the mounts.
    for mount in sorted(mounts):
        volume = volumes / mount.strip("/").replace("/", "-")
        volume.mkdir(parents=True)
        view += ["--bind", volume, mount]
    for path in {sys.prefix, Path(__file__).parents[2]}:
        view += ["--ro-bind", path, path]
    return view
