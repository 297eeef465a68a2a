"""Sizes in bytes as people write them: "8GiB", "512 MB", "4096"."""

import os
import re
from collections.abc import Mapping

_UNITS = {"": 1, "B": 1}
_UNITS |= {f"{letter}B": 1000 ** (i + 1) for i, letter in enumerate("KMGTP")}
_UNITS |= {f"{letter}IB": 1024 ** (i + 1) for i, letter in enumerate("KMGTP")}
_UNITS |= {letter: 1024 ** (i + 1) for i, letter in enumerate("KMGTP")}

_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)")


def parse_size(text: str) -> int:
    """Parse a size: a number, and B, kB, MB, GB (1000) or KiB, MiB, GiB or K, M, G (1024).

    Raises ValueError.

    >>> parse_size("8GiB"), parse_size("1.5 kB"), parse_size("4096")
    (8589934592, 1500, 4096)
    """
    match = _SIZE.fullmatch(text.strip())
    unit = _UNITS.get(match[2].upper()) if match else None
    if match is None or unit is None:
        raise ValueError(f"{text!r} is not a size: write it like 4096, 512MB or 8GiB")
    whole, _, fraction = match[1].partition(".")
    return int(whole) * unit + int(fraction or "0") * unit // int(10 ** len(fraction))


def size_setting(name: str, environ: Mapping[str, str] = os.environ) -> int | None:
    """Return the size that an environment variable says; None if it is not set, or empty.

    Raises ValueError, which names the variable.
    """
    text = environ.get(name, "").strip()
    try:
        return parse_size(text) if text else None
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def format_size(size: int) -> str:
    """Format a size with the largest binary unit that it fills.

    >>> format_size(0), format_size(1536), format_size(8 << 30)
    ('0 B', '1.5 KiB', '8 GiB')
    """
    amount = float(size)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        digits = f"{amount:.0f}" if unit == "B" else f"{amount:.1f}".removesuffix(".0")
        if abs(float(digits)) < 1024:
            return f"{digits} {unit}"
        amount /= 1024
    return f"{amount:.1f}".removesuffix(".0") + " PiB"
