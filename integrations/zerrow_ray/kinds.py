"""What can go by reference: one entry for each type, made when its library is imported."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from zerrow_ray.warnings import explain

Reduced = tuple[Any, ...]

PLAIN = frozenset({bytes, str, int, float, bool, type(None)})
"""Types whose values hold no table."""


@dataclass(frozen=True)
class Kind:
    """How values of one type are pickled in a put or a result.

    reaches: whether a value is large enough to pay, and can be described.
    by_reference: reduces a value that reaches. Raises what makes it take Ray's own path.
    own: reduces a value on Ray's own path.
    """

    reaches: Callable[[Any], bool]
    by_reference: Callable[[Any], Reduced]
    own: Callable[[Any], Reduced]


def reaches(kind: Kind, value: Any) -> bool:
    """Whether a value reaches; False, said once, if that cannot be told."""
    try:
        return kind.reaches(value)
    except Exception as error:  # a library's own, for what it cannot describe
        explain(error)
        return False


_kinds: dict[type, Kind] = {}
_waiting: dict[str, Callable[[ModuleType], None]] = {}


def add_kind(cls: type, kind: Kind) -> None:
    """Let values of exactly this type go by reference: a subclass may hold more."""
    _kinds[cls] = kind


def add_when_imported(name: str, add: Callable[[ModuleType], None]) -> None:
    """Call `add(module)` as soon as this process has a module with a class DataFrame."""
    _waiting[name] = add


def kinds() -> dict[type, Kind]:
    """Return the kinds by exact type, of all libraries that are imported by now."""
    for name in tuple(_waiting):
        # A module has no such class while it is being imported.
        if hasattr(sys.modules.get(name), "DataFrame"):
            _waiting.pop(name)(sys.modules[name])
    return _kinds
