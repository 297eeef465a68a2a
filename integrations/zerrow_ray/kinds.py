"""Kinds: the types whose values can go by reference, each added when its library is imported."""

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

    reaches: whether a value can go by reference, and is large enough for that to pay.
    by_reference: reduces such a value. If it raises, the value takes Ray's own path.
    own: reduces a value for Ray's own path.
    """

    reaches: Callable[[Any], bool]
    by_reference: Callable[[Any], Reduced]
    own: Callable[[Any], Reduced]


def reaches(kind: Kind, value: Any) -> bool:
    """Whether a value reaches; False, logged once, if its library raises an error."""
    try:
        return kind.reaches(value)
    except Exception as error:  # the library's own, for values that it cannot describe
        explain(error)
        return False


_kinds: dict[type, Kind] = {}
_waiting: dict[str, Callable[[ModuleType], None]] = {}


def add_kind(cls: type, kind: Kind) -> None:
    """Let values of exactly this type go by reference. Subclasses do not: they may hold more."""
    _kinds[cls] = kind


def add_when_imported(name: str, add: Callable[[ModuleType], None]) -> None:
    """Call `add(module)` once this process has imported the module `name`, with its DataFrame."""
    _waiting[name] = add


def kinds() -> dict[type, Kind]:
    """Return the kinds by exact type, of all libraries that are imported by now."""
    for name in tuple(_waiting):
        # While the module is being imported, it does not have the class yet.
        if hasattr(sys.modules.get(name), "DataFrame"):
            _waiting.pop(name)(sys.modules[name])
    return _kinds
