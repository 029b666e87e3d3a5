"""Numbers and tables as people read them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import numpy as np

_SUFFIXES = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"))


def short(value: float) -> str:
    """Three figures and a suffix: 7.397e10 -> "74.0B"; beyond 1e15 or below 1 in scientific notation."""
    value = float(value)
    if not np.isfinite(value):
        return str(value)
    for scale, suffix in _SUFFIXES:
        if 0.9995 * scale <= abs(value) < 1e15:
            return f"{_three(value / scale)}{suffix}"
    return _three(value) if 0.9995 <= abs(value) < 1e3 else f"{value:.3g}"


def _three(value: float) -> str:
    whole = len(str(int(abs(value))))
    return f"{value:.{max(3 - whole, 0)}f}"


def times(ratio: float) -> str:
    """A ratio to three figures: 11876 -> "11,900"."""
    return f"{float(f'{ratio:.3g}'):,.0f}" if 1e3 <= ratio < 1e9 else f"{ratio:.3g}"


def short_bytes(value: float) -> str:
    """Three figures in the decimal units that `to_bytes` reads and memory is sold in: 1.5e6 -> "1.50MB"."""
    for factor, unit in ((1e15, "PB"), (1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if value >= 0.9995 * factor:
            return f"{_three(value / factor)}{unit}"
    return f"{value:.0f}B"


def to_bytes(text: str) -> float:
    """80GB, 80e9, 24GiB -> bytes.

    Raises:
      ValueError: not an amount of memory.
    """
    match = re.fullmatch(r"\s*([0-9.]+(?:e[0-9]+)?)\s*([kmgt]?)(i?)b?\s*", text.lower())
    found = float(match[1]) * (1024.0 if match[3] else 1e3) ** " kmgt".index(match[2] or " ") if match else 0.0
    if not 0 < found < 1e18:
        raise ValueError(text)
    return found


def plural(count: int, noun: str) -> str:
    """1 run, 2 runs."""
    return f"{count} {noun}" + ("" if count == 1 else "s")


def listed(items: Iterable[object], limit: int = 4, at_least: bool = False) -> str:
    """a, b, c and 7 more; `at_least` 7 more where the items are not all there are."""
    names = [str(item) for item in items]
    left = "at least " * at_least + str(len(names) - limit)
    return ", ".join(names[:limit]) + (f" and {left} more" if len(names) > limit else "")


def table(header: Sequence[str], rows: Sequence[Sequence[str]], indent: str = "  ") -> str:
    """Aligned columns: the first to the left, the others to the right."""
    cells = [list(map(str, header)), *(list(map(str, row)) for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    lines = [
        indent + "  ".join(c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths)))
        for row in cells
    ]
    return "\n".join(line.rstrip() for line in lines)
