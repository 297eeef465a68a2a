"""The versions that the plugin is tested with."""

from importlib.metadata import PackageNotFoundError, version

TESTED = {"ray": ((2, 57), (2, 60)), "pyarrow": ((19, 0), (26, 0)), "numpy": ((1, 26), (2, 4))}
"""By package, the oldest and the newest (major, minor) that the tests run with."""


def untested() -> list[str]:
    """Return a line for each package that is installed in an untested version."""
    found = []
    for package, (first, last) in TESTED.items():
        try:
            installed = version(package)
        except PackageNotFoundError:
            continue
        numbers = tuple(int(part) for part in installed.split(".")[:2])
        if not first <= numbers <= last:
            known = " to ".join(".".join(map(str, each)) for each in (first, last))
            found.append(f"{package} {installed} (tested: {known})")
    return found
