"""The errors of decoding, told apart from this process's own."""

import pyarrow as pa


class UncacheableFileError(Exception):
    """Only pyarrow's own reader can handle the file or the request."""


def is_decode_error(error: Exception) -> bool:
    """Return whether an error is about the file's contents: every reader would raise it."""
    if isinstance(error, pa.ArrowMemoryError | pa.ArrowCancelled):
        return False
    # An error of the system has an errno: too many open files, no permission, a failing disk.
    return not (isinstance(error, OSError) and error.errno is not None)


def with_path(error: Exception, what: str) -> Exception:
    """Return the error with `what` in front of its text."""
    if not is_decode_error(error) or str(error).startswith(what):
        return error
    hint = ""
    if "crypt" in str(error):
        hint = " (encrypted files are not cached: read them with pyarrow.parquet.read_table)"
    cls: type[Exception] = type(error)
    return cls(f"{what}: {error}{hint}")
