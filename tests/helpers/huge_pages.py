"""Processes that ask for huge pages, and what those may do."""

import os
import textwrap

import pytest

from tests.helpers.python import run_python
from zerrow_store.memory import huge_pages

ORDINARY = """
import ctypes
os.setgroups([])
os.setresgid(65534, 65534, 65534)
os.setresuid(65534, 65534, 65534)
assert ctypes.CDLL(None).prctl(4, 1) == 0  # PR_SET_DUMPABLE, as after an exec
"""
"""What root does to be nobody."""

_FOUND = huge_pages.probe()
needs_huge_pages = pytest.mark.skipif(not _FOUND.available, reason=_FOUND.finding)
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")

_ASKED_FOR = {"ZERROW_HUGE_PAGES": "auto"}

PRELUDE = """
import errno, os, sys
import numpy as np, pyarrow as pa
from zerrow_store import errors, memory
from zerrow_store.config import MemoryConfig
from zerrow_store.memory import huge_pages
from zerrow_store.memory.buffers import allocate
from zerrow_store.native import _native

def in_huge_pages():
    memory.start()
    _, fd, _ = _native.arena_segment()
    return os.readlink(f"/proc/self/fd/{fd}") == "/zerrow (deleted)"
def resident(): return os.fstat(_native.arena_segment()[1]).st_blocks * 512
def fill(size):
    buffer = allocate(size)
    np.frombuffer(buffer, np.uint8)[:] = 1
    return buffer
"""


def run(code: str, *, user: str = "", **environ: str) -> None:
    run_python(PRELUDE + user + textwrap.dedent(code), **(_ASKED_FOR | environ))


FORBIDDEN = """
import ctypes
from pathlib import Path
libc = ctypes.CDLL(None, use_errno=True)
CLONE_NEWUSER = 0x10000000
before = os.getuid(), os.getgid()
assert libc.unshare(CLONE_NEWUSER) == 0, os.strerror(ctypes.get_errno())
Path("/proc/self/setgroups").write_text("deny")
Path("/proc/self/uid_map").write_text(f"{before[0]} {before[0]} 1")
Path("/proc/self/gid_map").write_text(f"{before[1]} {before[1]} 1")
Path("/proc/sys/user/max_user_namespaces").write_text("0")  # of this namespace alone
"""
"""What a process does to be one whose namespaces are forbidden. It has to be without threads."""


def run_forbidden(code: str, **environ: str) -> None:
    code = "import os" + FORBIDDEN + PRELUDE + textwrap.dedent(code)
    run_python(code, **(_ASKED_FOR | environ))
