"""The part of the object table that is about decoded columns: which object holds which.

Pure data, changed by events only, like the object table that it belongs to. A *file* is an identity
(bytes that change when the file does), a *unit* a (variant, column): how it was decoded, and what.
A unit is cut into *parts* (a Parquet file's row groups); an entry is one store object with some
parts of one unit. A part is in one entry at most.
"""

from collections import Counter
from dataclasses import dataclass

from zerrow_store.protocol.fields import Unit


@dataclass
class Entry:
    """What one object holds. layout: (part, number of its chunks) in the object's order.

    seconds: what the decoding took. used: when it was last read, hits: how often.
    """

    file: bytes
    path: str
    unit: Unit
    layout: list[tuple[int, int]]
    seconds: float
    hits: int
    used: float


class DecodeCacheIndex:
    """See the module."""

    def __init__(self) -> None:
        self.entries: dict[bytes, Entry] = {}
        self._parts: dict[bytes, dict[Unit, dict[int, bytes]]] = {}
        self._files: dict[str, Counter[bytes]] = {}  # by path, with their entries counted

    def add(self, object_id: bytes, entry: Entry) -> None:
        """Enter an object."""
        self.entries[object_id] = entry
        parts = self._parts.setdefault(entry.file, {}).setdefault(entry.unit, {})
        parts.update((part, object_id) for part, _ in entry.layout)
        self._files.setdefault(entry.path, Counter())[entry.file] += 1

    def forget(self, object_id: bytes) -> None:
        """Take an object out, if it is in."""
        entry = self.entries.pop(object_id, None)
        if entry is None:
            return
        units = self._parts[entry.file]
        for part, _ in entry.layout:
            del units[entry.unit][part]
        if not units[entry.unit]:
            del units[entry.unit]
        if not units:
            del self._parts[entry.file]
        files = self._files[entry.path]
        files[entry.file] -= 1
        if files[entry.file] == 0:
            del files[entry.file]
        if not files:
            del self._files[entry.path]

    def use(self, object_ids: list[bytes], now: float) -> None:
        """Note that objects were read."""
        for object_id in object_ids:
            if entry := self.entries.get(object_id):
                entry.hits += 1
                entry.used = now

    def parts(self, file: bytes, unit: Unit) -> dict[int, bytes]:
        """Return the object of each part of a unit that is there."""
        return self._parts.get(file, {}).get(unit, {})

    def outdated(self, file: bytes, path: str) -> list[bytes]:
        """Return the objects of what `path` was before it was `file`."""
        others = [other for other in self._files.get(path, ()) if other != file]
        return [o for other in others for o in self._objects(other)]

    def objects_at(self, path: str | None) -> list[bytes]:
        """Return the objects of the files at `path`, or of all files."""
        if path is None:
            return list(self.entries)
        return [o for file in self._files.get(path, ()) for o in self._objects(file)]

    def _objects(self, file: bytes) -> set[bytes]:
        return {o for parts in self._parts[file].values() for o in parts.values()}
