"""Ways out of a sandbox. Each returns what came of it, so that a test sees for which reason it
failed."""

import ctypes
import errno
import os
import time
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from tests.helpers.processes import MEMORY_FILES


def attempt(function: Any, *arguments: Any) -> str:
    """Return "done", or the name of the errno."""
    try:
        function(*arguments)
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return "done"


def write_by_mprotect(t: pa.Table) -> str:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    page = t["x"].chunk(0).buffers()[1].address & ~4095
    if libc.mprotect(page, 4096, 3) != 0:
        return errno.errorcode[ctypes.get_errno()]
    return "done"


def write_by_process_memory(t: pa.Table) -> str:
    address = t["x"].chunk(0).buffers()[1].address

    def write() -> None:
        with open("/proc/self/mem", "r+b", 0) as memory:
            memory.seek(address)
            memory.write(bytes(8))

    return attempt(write)


def write_by_process_vm(t: pa.Table) -> str:
    return _process_vm_writev(t["x"].chunk(0).buffers()[1].address)


def _process_vm_writev(address: int) -> str:
    libc = ctypes.CDLL(None, use_errno=True)
    data = ctypes.create_string_buffer(8)
    local = (ctypes.c_void_p * 2)(ctypes.addressof(data), 8)
    remote = (ctypes.c_void_p * 2)(address, 8)
    if libc.process_vm_writev(os.getpid(), local, 1, remote, 1, 0) < 0:
        return errno.errorcode[ctypes.get_errno()]
    return "done"


def ptrace(*_: Any) -> str:
    libc = ctypes.CDLL(None, use_errno=True)
    pid = os.fork()
    if pid == 0:
        time.sleep(60)
        os._exit(0)
    try:
        attached = libc.ptrace(16, pid, 0, 0)  # PTRACE_ATTACH
        return "done" if attached == 0 else errno.errorcode[ctypes.get_errno()]
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)


def reopen_all(t: pa.Table) -> set[str]:
    """Reopen the files of all mappings and descriptors for writing, and write."""
    found = set()
    for folder in ("/proc/self/map_files", "/proc/self/fd"):
        for name in os.listdir(folder):
            path = f"{folder}/{name}"
            try:
                if "memfd:zerrow-input" in os.readlink(path):
                    fd = os.open(path, os.O_RDWR)
                    found.add(attempt(os.pwrite, fd, bytes(8), 0))
            except OSError as error:
                found.add(errno.errorcode[error.errno or 0])
    return found


def memory_has(marker: bytes, writable: bool = False) -> bool:
    """Whether the marker (given reversed) is in any file that this process has mapped read-only,
    or that it has mapped writable."""
    marker = marker[::-1]
    with open("/proc/self/maps") as maps, open("/proc/self/mem", "rb", 0) as memory:
        for line in maps.readlines():
            words = line.split()
            if not any(name in line for name in MEMORY_FILES) or words[1] != (
                "rw-s" if writable else "r--s"
            ):
                continue
            start, end = (int(part, 16) for part in words[0].split("-"))
            for at in range(start, end, 1 << 20):
                memory.seek(at)
                if marker in memory.read(min(1 << 20, end - at)):
                    return True
    return False


def marked(marker: bytes) -> pa.Table:
    return pa.table({"m": pc.binary_join_element_wise(pa.array([marker] * 20_000), b"", b"")})
