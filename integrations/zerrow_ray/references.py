"""How Ray names what a task returns: by the task, and a number.

The first result is number 1. Of a generator, number 1 is the stream, and its items begin with 2.
"""

_INDEX_BYTES = 4


def reference(task: bytes, number: int) -> bytes:
    """Return the reference of one of a task's results or items."""
    return task + number.to_bytes(_INDEX_BYTES, "little")


def split(reference: bytes) -> tuple[bytes, int]:
    """Return a reference's task, and its number among what that returns."""
    task, number = reference[:-_INDEX_BYTES], reference[-_INDEX_BYTES:]
    return task, int.from_bytes(number, "little")


def stream_of(task: bytes) -> bytes:
    """Return the reference of a generator's stream."""
    return reference(task, 1)
