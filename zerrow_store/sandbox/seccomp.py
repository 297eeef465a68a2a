"""The sandbox's system call filter.

libseccomp builds it, and bubblewrap installs it. It denies what a computation over Arrow data does
not need and an escape might: other processes' memory, namespaces, mounts, kernel interfaces with a
history of holes, SysV IPC (it outlives its processes), and all socket families but the internet's
and, in a network namespace of its own, Unix sockets. With the host's network it denies Unix
sockets: abstract names, such as the node store's, belong to the network namespace.
"""

import ctypes
import errno
import os

from zerrow_store.memfd import create_memfd

_ALLOW = 0x7FFF0000
_ERRNO = 0x00050000
_EQ, _GT, _MASKED_EQ = 4, 6, 7
_AF_UNIX, _AF_INET, _AF_INET6 = 1, 2, 10
_NEW_NAMESPACES = (
    0x00000080,  # CLONE_NEWTIME
    0x00020000,  # CLONE_NEWNS
    0x02000000,  # CLONE_NEWCGROUP
    0x04000000,  # CLONE_NEWUTS
    0x08000000,  # CLONE_NEWIPC
    0x10000000,  # CLONE_NEWUSER
    0x20000000,  # CLONE_NEWPID
    0x40000000,  # CLONE_NEWNET
)
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C

_NAMES = """
ptrace process_vm_readv process_vm_writev process_madvise kcmp pidfd_getfd perf_event_open bpf
userfaultfd add_key request_key keyctl mount umount umount2 pivot_root chroot move_mount open_tree
fsopen fsconfig fsmount fspick mount_setattr unshare setns kexec_load kexec_file_load init_module
finit_module delete_module reboot swapon swapoff acct quotactl quotactl_fd open_by_handle_at
name_to_handle_at fanotify_init io_uring_setup io_uring_enter io_uring_register personality syslog
settimeofday clock_settime clock_adjtime adjtimex stime sethostname setdomainname iopl ioperm
modify_ldt lookup_dcookie nfsservctl vhangup mbind migrate_pages move_pages set_mempolicy vmsplice
shmget shmat shmctl shmdt semget semop semtimedop semctl msgget msgsnd msgrcv msgctl mq_open
mq_unlink mq_timedsend mq_timedreceive uselib ustat sysfs _sysctl get_kernel_syms query_module
create_module landlock_create_ruleset memfd_secret lsm_set_self_attr
"""
_DENIED = _NAMES.split()


class _Comparison(ctypes.Structure):
    _fields_ = (
        ("argument", ctypes.c_uint),
        ("operator", ctypes.c_int),
        ("first", ctypes.c_uint64),
        ("second", ctypes.c_uint64),
    )


class Filter:
    """Rules, and the program that libseccomp makes of them. What no rule is for is allowed."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL("libseccomp.so.2", use_errno=True)
        self._library.seccomp_init.restype = ctypes.c_void_p
        self._library.seccomp_init.argtypes = [ctypes.c_uint32]
        self._library.seccomp_release.argtypes = [ctypes.c_void_p]
        self._library.seccomp_export_bpf.argtypes = [ctypes.c_void_p, ctypes.c_int]
        self._library.seccomp_syscall_resolve_name.argtypes = [ctypes.c_char_p]
        self._library.seccomp_rule_add_array.argtypes = [
            ctypes.c_void_p,
            ctypes.c_uint32,
            ctypes.c_int,
            ctypes.c_uint,
            ctypes.POINTER(_Comparison),
        ]
        self._context = self._library.seccomp_init(_ALLOW)
        if not self._context:
            raise OSError(errno.ENOMEM, "seccomp_init failed")

    def deny(self, call: str, *when: tuple[int, int, int, int], code: int = errno.EPERM) -> None:
        """Deny a call when all conditions (argument, operator, first, second) hold."""
        number = self._library.seccomp_syscall_resolve_name(call.encode())
        if number == -1:
            return  # unknown to this libseccomp, or on this architecture
        comparisons = (_Comparison * max(len(when), 1))(*(_Comparison(*each) for each in when))
        result = self._library.seccomp_rule_add_array(
            self._context, _ERRNO | code, number, len(when), comparisons
        )
        if result != 0:
            raise OSError(-result, f"seccomp rule for {call}: {os.strerror(-result)}")

    def export(self, fd: int) -> None:
        result = self._library.seccomp_export_bpf(self._context, fd)
        if result != 0:
            raise OSError(-result, f"seccomp_export_bpf: {os.strerror(-result)}")

    def close(self) -> None:
        self._library.seccomp_release(self._context)


def make_filter(*, network: bool) -> int:
    """Return a descriptor of the filter program.

    Raises
    ------
    OSError
        libseccomp is missing.
    """
    rules = Filter()
    try:
        for call in _DENIED:
            rules.deny(call)
        for flag in _NEW_NAMESPACES:
            rules.deny("clone", (0, _MASKED_EQ, flag, flag))
        # A filter cannot read its flags, which lie in memory. glibc falls back to clone.
        rules.deny("clone3", code=errno.ENOSYS)
        for request in (_TIOCSTI, _TIOCLINUX):
            rules.deny("ioctl", (1, _MASKED_EQ, 0xFFFFFFFF, request))
        families = {_AF_INET, _AF_INET6} if network else {_AF_UNIX, _AF_INET, _AF_INET6}
        for family in set(range(_AF_INET6 + 1)) - families:
            rules.deny("socket", (0, _EQ, family, 0), code=errno.EAFNOSUPPORT)
        rules.deny("socket", (0, _GT, _AF_INET6, 0), code=errno.EAFNOSUPPORT)
        fd = create_memfd("zerrow-seccomp")
        try:
            rules.export(fd)
            os.lseek(fd, 0, os.SEEK_SET)
        except BaseException:
            os.close(fd)
            raise
        return fd
    finally:
        rules.close()
