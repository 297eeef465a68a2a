"""The compiled part of zerrow_store: memory and messages. This stub is its documentation."""

from collections.abc import Sequence
from typing import Any, TypedDict

import pyarrow as pa

class ArenaStats(TypedDict):
    """Bytes of the arena; `arena.h` defines the terms."""

    live: int
    pinned: int
    warm: int
    quarantined: int
    punched: int
    peak: int
    page: int
    """Size of the pages that the kernel provides, if it has them free."""

class DeanonStats(TypedDict):
    """Statistics of KernelZero's client."""

    tracked: int
    """Bytes of tracked allocations."""
    moved: int
    """Of these, bytes in files."""
    files: int
    """Descriptors open for moved memory."""
    not_returned: int
    """Bytes that could not be made anonymous again, and are never freed."""

# --- memory (arena.h, pool.h, capture_*.h) ---

def find_huge_pages() -> tuple[bool, str]:
    """Return whether arenas can be in huge pages here, and how, or why not. Finds out by trying."""

def configure_arena(
    *,
    capacity: int,
    warm_limit: int,
    decay_ms: int,
    huge_pages: str = "auto",
    sealable: bool = False,
    groups: Sequence[tuple[str, str, str, str]] = ...,
) -> None:
    """Set the options of arenas created later.

    Parameters
    ----------
    capacity
        Size of the arena's address space, in bytes.
    warm_limit
        Bytes of freed memory that may stay warm.
    decay_ms
        Milliseconds after which unused warm memory goes back to the kernel.
    huge_pages
        "auto", "on" or "off".
    sealable
        Whether seals may be added to the file later, for example against writing.
    groups
        The memory cgroups to watch, as `zerrow_store.cgroups.MemoryGroup`.
    """

def arena_segment() -> tuple[bytes, int, int]:
    """Return segment id, file descriptor and size of this process's arena.

    The descriptor belongs to the arena: duplicate it to keep it.

    Raises
    ------
    MemoryError
        The arena cannot be created: no address space or no descriptors are left.
    """

def arena_stats() -> ArenaStats:
    """Return the arena's statistics; all 0 without an arena."""

def arena_reset_peak() -> int:
    """Return the bytes in use and not pinned, and restart their peak."""

def hold_back(seconds: float) -> None:
    """Make large allocations of Arrow's wait for `seconds` from now on, or until the next call.

    An allocation that is made with the GIL never waits.
    """

def bound_unpublished(limit: int | None) -> None:
    """Bound the memory that is neither published nor given back, in use or warm.

    Giving up warm memory is all that is done for that.

    Parameters
    ----------
    limit
        Bytes; None for no bound beside the configured one.
    """

def capture_arrow(on: bool) -> None:
    """Serve Arrow's default memory pool from the arena, or from the original pool again.

    The first call checks libarrow's layout, and every one checks that an allocation lies in the
    arena. Pools that the program asks for by name are left alone, except the default one (usually
    mimalloc), which is the same object. Memory allocated while on stays valid afterwards.

    Raises
    ------
    RuntimeError
        The layout is not the expected one. Nothing has changed.
    """

def capture_numpy(on: bool) -> None:
    """Serve NumPy's array data of 32 KiB and more from the arena, or from NumPy's own allocator.

    Arrays allocated while on stay valid afterwards.

    Raises
    ------
    RuntimeError
        NumPy's allocator is not the expected one. Nothing has changed.
    """

def captured() -> dict[str, bool]:
    """Return {"arrow": bool, "numpy": bool}."""

def kernelzero_version() -> int:
    """Return the version of the kernel module.

    Raises
    ------
    OSError
        There is no module, or it may not be used.
    """

def track_arrow() -> None:
    """Prepare tracking of what Arrow's default pool allocates outside of the arena.

    Raises
    ------
    RuntimeError
        As `capture_arrow`.
    """

def track_numpy() -> None:
    """Prepare tracking of the array data that NumPy allocates outside of the arena.

    Raises
    ------
    RuntimeError
        As `capture_numpy`.
    """

def track_allocations(on: bool) -> None:
    """Set whether later allocations of 64 KiB and more are tracked: `encode` can move these."""

def deanon_stats() -> DeanonStats:
    """Return the statistics of KernelZero's client."""

def moved_files(segments: list[bytes], most: int) -> list[tuple[bytes, int, int]]:
    """Return the files of moved memory among some segments, `most` at most.

    Returns
    -------
    list of tuple
        Segment id, a new descriptor, size. The files are sealed.
    """

def unpin(offsets: bytes) -> None:
    """Unpin allocations of this process's arena.

    Parameters
    ----------
    offsets
        Packed little-endian uint64.
    """

class ArenaProbe:
    """The arena's C++ interface by address (arena.h), for tests: allocators hide most of it."""

    @staticmethod
    def allocate(size: int, *, numpy: bool = False, zeroed: bool = False) -> int:
        """Return an address, or 0 when the arena is full."""

    @staticmethod
    def free(address: int) -> None: ...
    @staticmethod
    def resize(address: int, size: int) -> bool: ...
    @staticmethod
    def find(address: int, size: int) -> tuple[int, int] | None:
        """Return offset and size of the allocation that covers the range."""

    @staticmethod
    def contains(address: int) -> bool:
        """Return whether an address lies in the arena, allocated or not."""

    @staticmethod
    def pin(offset: int) -> bool: ...
    @staticmethod
    def trim(keep: int = 0) -> None:
        """Give warm memory beyond `keep` bytes back to the kernel."""

# --- segments and SIPC (segments.h, sipc.h) ---

class SipcError(ValueError):
    """A message that is malformed, of another version, or refers outside of its segments."""

class Encoded:
    """An encoded message. Its allocations are pinned until the caller unpins them.

    While it lives, so do the owners of the foreign allocations.
    """

    message: bytes
    own: bytes
    """The arena's allocations that the message refers to, distinct: packed uint64 (offset, size)
    pairs.
    """
    foreign: list[tuple[bytes, bytes]]
    """Allocations of other segments, distinct: segment id, packed uint64 (offset, size) pairs.
    Moved memory is among them; `moved_files` has its segments as long as this object lives.
    """
    bytes_shared: int
    """Of the arena's and of moved allocations, each counted once and whole."""
    bytes_reshared: int
    """Of allocations published earlier (also by this process), likewise."""
    bytes_copied: int
    """Into the arena, or into the message itself (buffers of up to 256 bytes). Includes what
    KernelZero copied of moved memory: edges of a page, pages that others hold.
    """

    def unpin(self) -> None:
        """Unpin the allocations in `own`, for a message that is not published. Call it once."""

def reaches(obj: pa.Table | pa.RecordBatch | pa.ChunkedArray | pa.Array, limit: int) -> bool:
    """Return whether the data has `limit` bytes or more.

    As `obj.nbytes >= limit`, which takes 3 us per column, but without validity bitmaps and arrays
    without rows.
    """

def encode(
    obj: pa.Table | pa.RecordBatch | pa.ChunkedArray | pa.Array, *, move: bool = False
) -> Encoded:
    """Encode Arrow data as a SIPC message.

    Parameters
    ----------
    obj
        The data.
    move
        Whether to move tracked memory into sealed files instead of copying it. For publications: a
        reader of the message needs these files.

    Raises
    ------
    MemoryError
        Bytes have to be copied, and the arena is full.
    TypeError
        The object is no Arrow data.
    ValueError
        Arrow's IPC cannot describe the type: a dictionary whose values are dictionaries or
        extensions.
    """

def encode_buffers(header: bytes, buffers: list[Any], *, move: bool = False) -> Encoded:
    """Encode a header and contiguous buffers (buffer protocol), for pickle protocol 5."""

def message_segments(message: bytes) -> list[bytes]:
    """Return the ids of the segments that a message refers to.

    Raises
    ------
    SipcError
        The envelope is malformed.
    """

def map_segment(segment: bytes, fd: int, size: int, *, sealed: bool = True) -> None:
    """Map a segment read-only into this process; the caller may then close `fd`. Idempotent.

    Parameters
    ----------
    segment
        The segment's id.
    fd
        Its file.
    size
        Its size in bytes.
    sealed
        Whether to require a file that cannot shrink. A file on disk can.

    Raises
    ------
    SipcError
        The file is shorter than `size`, or could shrink.
    """

def unmap_segment(segment: bytes) -> bool:
    """Unmap a segment. Return False if views refer to it, or it is not mapped."""

def mapped_segments() -> list[bytes]:
    """Return the ids of all mapped segments."""

def decode(message: bytes, owner: Any, relocated: list[tuple[bytes, int]] | None = None) -> Any:
    """Decode a message whose segments are all mapped.

    Parameters
    ----------
    message
        The message.
    owner
        An object that the result's buffers keep alive.
    relocated
        For each entry of the message's allocation table, the (segment id, offset) where it lies on
        this machine instead.

    Returns
    -------
    Table, RecordBatch, ChunkedArray, Array or tuple
        As encoded; for `encode_buffers`, the header and a list of read-only buffers.

    Raises
    ------
    SipcError
        The message is malformed, or a segment is not mapped.
    """

def view(segment: bytes, offset: int, size: int, owner: Any) -> pa.Buffer:
    """Return a read-only buffer over a range of a mapped segment, which keeps `owner` alive.

    Raises
    ------
    SipcError
        The segment is not mapped, or the range lies outside of it.
    """

def locate(buffer: pa.Buffer) -> tuple[bytes, int] | None:
    """Return (segment id, offset) of a buffer's bytes in a segment's file, if that has them as the
    buffer does: of decoded data, and of what Arrow has allocated in this process's arena.
    """

def map_privately(buffer: pa.Buffer, fd: int, offset: int) -> pa.Buffer:
    """Return a buffer that can be written to, of the bytes of `buffer`, which lie at `offset` of a
    file. A page is copied when it is first written to: writes reach neither the file nor `buffer`,
    which is kept as long as the new one. Raises OSError.
    """

def message_allocations(message: bytes) -> list[tuple[bytes, int, int]]:
    """Return a message's allocation table in order: segment id, offset, size.

    Raises
    ------
    SipcError
        The envelope is malformed.
    """
