"""Compiled part of zerrow_store: memory and messages. This stub is its documentation."""

from collections.abc import Sequence
from typing import Any, TypedDict

import pyarrow as pa

class ArenaStats(TypedDict):
    live: int
    pinned: int
    warm: int
    quarantined: int
    punched: int
    peak: int
    page: int
    """The kernel gives the arena memory in pages of this size, as far as it has them free."""

class MovableStats(TypedDict):
    known: int
    moved: int
    files: int
    not_returned: int

# --- memory (arena.h, pool.h, capture_*.h) ---

def find_huge_pages() -> tuple[bool, str]:
    """Return whether arenas can be in huge pages here, and how, or why not. Tries it."""

def configure_arena(
    *,
    capacity: int,
    warm_limit: int,
    decay_ms: int,
    huge_pages: str = "auto",
    sealable: bool = False,
    groups: Sequence[tuple[str, str, str, str]] = ...,
) -> None:
    """Set the options of arenas made from now on (bytes, bytes, milliseconds).

    groups: the memory cgroups to watch, as `zerrow_store.cgroups.MemoryGroup`s.

    sealable: whoever has the descriptor may add seals, against writing for one.
    """

def arena_segment() -> tuple[bytes, int, int]:
    """Return (segment id of 16 bytes, file descriptor, size) of this process's arena.

    The descriptor stays the arena's: duplicate it to keep it. Raises MemoryError if the arena
    cannot be made (address space or descriptors used up).
    """

def arena_stats() -> ArenaStats: ...
def arena_reset_peak() -> int:
    """Return the bytes that are in use and not pinned; count their peak anew."""

def arena_trim(keep: int = 0) -> None: ...
def hold_back(seconds: float) -> None:
    """Let large allocations of Arrow's wait until `seconds` from now, or the next call; those that
    are made with the GIL never wait.
    """

def bound_unpublished(limit: int | None) -> None:
    """Keep what is neither published nor given back, in use or warm, at `limit` bytes from now on,
    as far as giving up warm memory does it; None: as configured.
    """

def arena_contains(address: int) -> bool: ...
def memory_pool_name() -> str:
    """backend_name of Arrow's default pool: "zerrow" while captured."""

def capture_arrow(on: bool) -> None:
    """Serve Arrow's default memory pool from the arena, or from the original pool again.

    Verified when switched on; raises RuntimeError (and changes nothing) when libarrow's layout is
    not the expected one. Pools that were asked for by name are left alone, except the one that is
    the default (usually mimalloc): it is the same object. Memory allocated while on stays valid
    after switching off.
    """

def capture_numpy(on: bool) -> None:
    """Serve NumPy's array data of 32 KiB and more from the arena, or from NumPy's own allocator.

    Verified like capture_arrow, and as reversible.
    """

def captured() -> dict[str, bool]:
    """{"arrow": bool, "numpy": bool}"""

def kernelzero_query() -> dict[str, int]:
    """Return {"version", "huge", "swap"} of the kernel module. Raises OSError without one."""

def follow_arrow() -> None:
    """Make known, while followed, what Arrow's default pool allocates outside the arena.

    Raises RuntimeError as capture_arrow does.
    """

def follow_numpy() -> None:
    """Make known, while followed, what NumPy allocates outside the arena, for array data.

    Raises RuntimeError as capture_numpy does.
    """

def follow_allocations(on: bool) -> None:
    """Switch whether allocations of 64 KiB and more become known: `encode` can move these."""

def follows_allocations() -> bool: ...
def movable_stats() -> MovableStats:
    """Return bytes: known; moved: of these, in files; not_returned: lost, as their range could not
    be made anonymous again. files: descriptors open for moved memory.
    """

def moved_files(segments: list[bytes], most: int) -> list[tuple[bytes, int, int]]:
    """Return those of the segments that are files of moved memory and open here, at most `most`:
    (segment id, a descriptor of the caller's own, size). They are sealed.
    """

def unpin(offsets: bytes) -> None:
    """Unpin allocations of this process's arena: packed little-endian uint64 offsets."""

class ArenaProbe:
    """The arena's C++ interface by address (arena.h), for tests."""

    @staticmethod
    def allocate(size: int, *, numpy: bool = False, zeroed: bool = False) -> int:
        """Return an address, or 0 when the arena is full."""

    @staticmethod
    def free(address: int) -> None: ...
    @staticmethod
    def resize(address: int, size: int) -> bool: ...
    @staticmethod
    def find(address: int, size: int) -> tuple[int, int] | None:
        """Return (offset, size) of the live allocation that covers the range."""

    @staticmethod
    def pin(offset: int) -> bool: ...

# --- segments and SIPC (segments.h, sipc_*.h) ---

class SipcError(ValueError):
    """A message that is malformed, of another version, or refers outside its segments."""

class Encoded:
    """An encoded message. The allocations in `own` are pinned until unpinned by the caller.

    While it lives, the owners of the foreign allocations do.
    """

    message: bytes
    own: bytes
    """This arena's allocations the message refers to: packed uint64 (offset, size) pairs,
    distinct.
    """
    foreign: list[tuple[bytes, bytes]]
    """Other segments' allocations: (segment id, packed uint64 (offset, size) pairs), distinct.
    What was moved is there, too: `moved_files` has its segments, as long as this lives.
    """
    bytes_shared: int
    """Of this arena's and of moved allocations, each counted whole and once."""
    bytes_reshared: int
    """Of allocations published before (also by this process), likewise."""
    bytes_copied: int
    """Into the arena, or into the message itself (buffers of up to 256 bytes); and what KernelZero
    copied of moved memory: edges of a page, pages that others hold.
    """

def reaches(obj: pa.Table | pa.RecordBatch | pa.ChunkedArray | pa.Array, limit: int) -> bool:
    """Whether the data has `limit` bytes or more: `obj.nbytes >= limit`, but for validity bitmaps
    and arrays without rows.

    `nbytes` takes 3 us per column.
    """

def encode(
    obj: pa.Table | pa.RecordBatch | pa.ChunkedArray | pa.Array, *, move: bool = False
) -> Encoded:
    """Encode Arrow data as a SIPC message.

    move: memory that is known (`follow_allocations`) is moved into sealed files instead of being
    copied; for publications, as whoever reads the message needs these files.
    Raises MemoryError when bytes have to be copied and the arena is full, TypeError for other
    objects, and ValueError for what Arrow's IPC cannot describe (dictionaries whose values
    are dictionaries or extensions).
    """

def encode_buffers(header: bytes, buffers: list[Any], *, move: bool = False) -> Encoded:
    """Encode `header` and contiguous buffers (buffer protocol), for pickle protocol 5."""

def message_segments(message: bytes) -> list[bytes]:
    """Return the ids of the segments a message refers to, after checking its envelope. Raises
    SipcError.
    """

def map_segment(segment: bytes, fd: int, size: int, *, sealed: bool = True) -> None:
    """Map a segment read-only for this process; the descriptor may then be closed. Idempotent.

    Raises SipcError when the file is shorter than `size`, or not sealed against shrinking, which a
    file on disk (sealed=False) cannot be.
    """

def unmap_segment(segment: bytes) -> bool:
    """Unmap a segment that no view refers to; False if views remain or it is not mapped."""

def mapped_segments() -> list[bytes]: ...
def decode(message: bytes, owner: Any, relocated: list[tuple[bytes, int]] | None = None) -> Any:
    """Decode a message whose segments are all mapped; the result's buffers keep `owner` alive.

    Returns Table, RecordBatch, ChunkedArray or Array as encoded; for encode_buffers, the tuple
    (header bytes, list of read-only pa.Buffer). `relocated` gives, for each entry of the message's
    allocation table in order, the (segment id, offset) where it lies on this machine instead.
    Raises SipcError.
    """

def view(segment: bytes, offset: int, size: int, owner: Any) -> pa.Buffer:
    """Return a read-only buffer over a range of a mapped segment, which keeps `owner` alive.

    Raises SipcError when the segment is not mapped or the range lies outside it.
    """

def message_allocations(message: bytes) -> list[tuple[bytes, int, int]]:
    """Return a message's allocation table: (segment id, offset, size), in order. Raises
    SipcError.
    """
