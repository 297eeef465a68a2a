"""Call sites: the user's line in the frames that Ray records of a call, without Ray's own frames
and the plugin's.
"""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import ray

import zerrow_ray

_PACKAGES = tuple(f"{Path(package.__path__[0])}/" for package in (ray, zerrow_ray))
_ELSEWHERE = re.compile(
    r"/(?:site|dist)-packages/(?:ray|zerrow_ray)/|/zerrow_ray/\w+\.py"
    r"|/ray/(?:_private/|util/tracing/|actor\.py|remote_function\.py)"
)
"""Paths of the packages on other machines."""

_TRACEBACK = re.compile(r'File "(.+?)", line (\d+), in (.+)')
_FRAME = re.compile(r"(.+):(.+?):(\d+)")
_DELIMITER = " | "


def of_traceback(text: str) -> str:
    """Return the innermost of the user's lines in a traceback, as path:function:line."""
    frames = [(path, function, line) for path, line, function in _TRACEBACK.findall(text)]
    return _first_of_users(reversed(frames))


def of_frames(text: str) -> str:
    """Return the same for a call site as `ray memory` shows it, the innermost frame first."""
    found = (_FRAME.fullmatch(part.strip()) for part in text.split(_DELIMITER))
    return _first_of_users(match.groups() for match in found if match)


def _first_of_users(frames: Iterable[Sequence[str]]) -> str:
    for path, function, line in frames:
        if not (path.startswith(_PACKAGES) or _ELSEWHERE.search(path)):
            return f"{path}:{function}:{line}"
    return ""
