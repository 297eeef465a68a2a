"""The choice of the compiled module for this process's libarrow.

Each compiled module is tied to the libarrow it was linked with, by the soname. Beside another
libarrow it would not fail, but load a second one into the process, so pyarrow is asked first.
"""

import sys
from pathlib import Path

import zerrow_store.native._build_info as build_info


def choose_module() -> None:
    """Make `zerrow_store.native._native` the module for the libarrow that pyarrow has loaded.

    Raises
    ------
    ImportError
        There is no module for it.
    """
    import pyarrow  # may import this module again, which must be complete by then

    loaded = pyarrow.cpp_build_info.so_version
    known = build_info.SO_VERSIONS
    if loaded not in known:
        versions = ", ".join(f"{int(number) // 100}.{int(number) % 100}" for number in known)
        raise ImportError(
            f"zerrow_store was built for pyarrow {versions}, but pyarrow {pyarrow.__version__} is "
            "installed: install one of these, or rebuild zerrow-store beside this one"
        )
    folder = str(Path(build_info.__file__).with_name(f"libarrow_{loaded}"))
    search_path = sys.modules[__package__].__path__
    if folder not in search_path:
        search_path.append(folder)
