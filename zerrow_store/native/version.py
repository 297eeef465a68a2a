"""Whether the compiled module may be loaded beside this process's pyarrow.

Linking ties the extension to one libarrow. Beside another version it would load a second
libarrow into the process instead of failing, so the versions are compared first.
"""

from zerrow_store.native._build_info import PYARROW_VERSION


def check_pyarrow() -> None:
    """Raise ImportError if this is not the pyarrow that the compiled module was built with."""
    import pyarrow  # its import may come back here: this module has to be complete by then

    if pyarrow.__version__ != PYARROW_VERSION:
        raise ImportError(
            f"zerrow_store was built for pyarrow {PYARROW_VERSION}, but pyarrow "
            f"{pyarrow.__version__} is installed: install pyarrow=={PYARROW_VERSION}, "
            f"or rebuild zerrow-store against {pyarrow.__version__}"
        )
