"""Errors of decoding: told apart from those of this process, and with the file's path in them."""

import pyarrow as pa


class UncacheableFileError(Exception):
    """A file, or a request, that only pyarrow's own reader knows how to handle."""


def is_decode_error(error: Exception) -> bool:
    """Whether an error is about what is in the file, so that another reader would have it, too."""
    if isinstance(error, pa.ArrowMemoryError | pa.ArrowCancelled):
        return False
    # One of the system's has a number: too many open files, no permission, a disk that fails.
    return not (isinstance(error, OSError) and error.errno is not None)


def with_path(error: Exception, what: str) -> Exception:
    """The same error, saying `what` first."""
    if not is_decode_error(error) or str(error).startswith(what):
        return error
    hint = ""
    if "crypt" in str(error):
        hint = " (encrypted files are not cached: read them with pyarrow.parquet.read_table)"
    cls: type[Exception] = type(error)
    return cls(f"{what}: {error}{hint}")
