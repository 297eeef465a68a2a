"""Requests of every kind, well formed and malformed."""

import copy
import math
from collections.abc import Iterator
from typing import Any

from tests.helpers.peers import SEGMENT
from zerrow_store.protocol import framing

PUT = [b"mine", b"", [[SEGMENT, b""]], b"message", False, False, [0, 0, 0]]
COLUMN = [["v", "c"], [[0, 1]], 1.0, b"column", b"", [], b"message", [0, 0, 0]]

WELL_FORMED: dict[str, list[Any]] = {
    "hello": [framing.PROTOCOL_VERSION, "supervisor", b"id"],
    "returned": [],
    "goodbye": [],
    "take_over": [],
    "attach": [SEGMENT, 1 << 20, False, b"owner"],
    "put": [*PUT, [[SEGMENT, 7]], [b"reference", b"owner", b"node", b"group"], "name"],
    "carried": [[b"mine"], b"reference"],
    "claim": [b"mine", True, b""],
    "get": [b"mine"],
    "named": ["name"],
    "hold": [b"mine"],
    "release": [[b"mine"]],
    "segments": [[SEGMENT]],
    "delete": [[b"mine"], True],
    "watch": [[b"mine"]],
    "land": [b"its", b"mine", [[SEGMENT, 0, SEGMENT, 64]], b"node"],
    "elsewhere": [],
    "count": ["sandbox", {"calls": 1}],
    "list": [],
    "stats": [],
    "memory": [],
    "memory_by_segment": [],
    "evictions": [],
    "copied_tables": [],
    "history": [],
    "read_back": [[[SEGMENT, 0]], 1.0],
    "spill_ahead": [[b"mine"]],
    "read_ahead": [[b"mine"]],
    "evicted": ["step", 10, 0.5, 0.5],
    "shutdown": [],
    "cache_open": [b"token", b"file", "/path", [[["v", "c"], [0, 1]]], 1],
    "cache_publish": [b"token", b"file", "/path", [COLUMN], [[SEGMENT, 7]]],
    "cache_fail": [b"token", b"file", [[["v", "c"], [0]]], ["OSError", "it failed"]],
    "cache_release": [b"token"],
    "cache_list": [],
    "cache_drop": ["/path"],
}


JUNK = [
    None,
    True,
    -1,
    1 << 63,
    (1 << 64) - 1,
    0.5,
    math.nan,
    math.inf,
    -math.inf,
    1e308,
    b"",
    b"x" * 2000,
    "text",
    [],
    [[]],
    {},
]


def places(value: Any, path: tuple[int, ...] = ()) -> Iterator[tuple[int, ...]]:
    """Where there is something in nested lists."""
    if path:
        yield path
    if isinstance(value, list):
        for index, each in enumerate(value):
            yield from places(each, (*path, index))


def changed(body: Any, path: tuple[int, ...], value: Any) -> Any:
    """The body with another value in one place."""
    made = copy.deepcopy(body)
    within = made
    for index in path[:-1]:
        within = within[index]
    within[path[-1]] = value
    return made


def malformed(body: list[Any]) -> Iterator[Any]:
    """A body with too much, too little, or something else in every place."""
    yield [*body, None]
    yield from (body[:count] for count in range(len(body)))
    yield from (changed(body, path, junk) for path in places(body) for junk in JUNK)
    yield from (junk for junk in JUNK if junk != [])
