"""Settings of the memory part, read from the environment once, when it starts."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from zerrow_store.cgroups import limit_of, memory_groups
from zerrow_store.sizes import size_setting

_SWITCHES = {"1": True, "true": True, "on": True, "0": False, "false": False, "off": False}
LEAST_ARENA = 64 << 20
"""As native/memory/memory_file.h has it."""

_GIB = 1 << 30
_MOST_CAPACITY = 512 * _GIB
"""Of the 128 TiB of a process's addresses, which hold the arenas of all whose tables it reads."""
_MODES = ("auto", "on", "off")


def machine_memory() -> int:
    """Return the machine's physical memory in bytes."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def memory_limit(root: Path = Path("/")) -> int:
    """Return the bytes that this process's cgroup, or the machine, has. root: below which the
    kernel's own file systems lie.
    """
    return min([machine_memory(), *map(limit_of, memory_groups(root))])


@dataclass(frozen=True, kw_only=True)
class MemoryConfig:
    """How a process's arena is made and what allocates from it. Sizes are in bytes."""

    arena_capacity: int
    """Address space of the arena; halved until the system grants it."""
    warm_limit: int
    """Freed memory that keeps its pages, to be used again without page faults."""
    decay_ms: int
    """After this time unused, warm memory goes back to the kernel; 0: at once. It does so earlier
    where the machine or a cgroup of this process is short of memory.
    """
    huge_pages: str = "auto"
    """Whether the arena is in huge pages: on is an error where there are none, auto does without
    them there.
    """
    arena_sealable: bool = False
    """Whoever has the arena may seal it against writing, as is done with that of a sandbox."""
    capture_arrow: bool = True
    capture_numpy: bool = True
    kernelzero: str = "auto"
    """Whether what lies outside the arena is published by moving its pages: on is an error where
    the kernel module cannot be used, auto copies there.
    """

    def __post_init__(self) -> None:
        if self.arena_capacity < LEAST_ARENA:
            raise ValueError(
                f"ZERROW_ARENA_CAPACITY: {self.arena_capacity} bytes is too small; it takes 64 MiB"
            )
        if self.warm_limit < 0 or self.decay_ms < 0:
            raise ValueError("ZERROW_WARM_LIMIT and ZERROW_DECAY_MS cannot be negative")
        for name in "arena_capacity", "warm_limit", "decay_ms":
            if getattr(self, name) >= 1 << 63:
                raise ValueError(f"ZERROW_{name.upper()}: {getattr(self, name)} is too large")
        for name, mode in ("KERNELZERO", self.kernelzero), ("HUGE_PAGES", self.huge_pages):
            if mode not in _MODES:
                raise ValueError(f"ZERROW_{name}: {mode!r} is not auto, on or off")

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> "MemoryConfig":
        """Read ZERROW_ARENA_CAPACITY, _WARM_LIMIT, _DECAY_MS, _HUGE_PAGES, _CAPTURE_ARROW,
        _CAPTURE_NUMPY and _KERNELZERO.

        Raises ValueError that names the variable.
        """
        memory = machine_memory()
        warm = min(4 * _GIB, memory_limit() // 8)
        return cls(
            arena_capacity=_size(environ, "ZERROW_ARENA_CAPACITY", min(2 * memory, _MOST_CAPACITY)),
            warm_limit=_size(environ, "ZERROW_WARM_LIMIT", warm),
            decay_ms=_milliseconds(environ, "ZERROW_DECAY_MS", 5000),
            capture_arrow=_switch(environ, "ZERROW_CAPTURE_ARROW"),
            capture_numpy=_switch(environ, "ZERROW_CAPTURE_NUMPY"),
            huge_pages=_mode(environ, "ZERROW_HUGE_PAGES", "auto"),
            kernelzero=_mode(environ, "ZERROW_KERNELZERO", "auto"),
        )


def _mode(environ: Mapping[str, str], name: str, default: str) -> str:
    return environ.get(name, "").strip().lower() or default


def _size(environ: Mapping[str, str], name: str, default: int) -> int:
    size = size_setting(name, environ)
    return default if size is None else size


def _milliseconds(environ: Mapping[str, str], name: str, default: int) -> int:
    text = environ.get(name, "").strip()
    if not text:
        return default
    if not (text.isascii() and text.isdigit()):
        raise ValueError(f"{name}: {text!r} is not a whole number of milliseconds")
    return int(text)


def _switch(environ: Mapping[str, str], name: str) -> bool:
    text = environ.get(name, "").strip().lower()
    if text and text not in _SWITCHES:
        raise ValueError(f"{name}: {text!r} is neither 1 nor 0")
    return _SWITCHES.get(text, True)
