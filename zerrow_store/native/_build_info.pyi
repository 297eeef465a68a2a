"""Written by the build."""

SO_VERSIONS: tuple[str, ...]
"""The sonames' numbers of the libarrows that there is a native module for, like 2600."""
