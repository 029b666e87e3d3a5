"""Numbers on axes as people write them."""

from __future__ import annotations

import math

from scaling_jax.text import short

_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def power(value: float) -> str:
    """1e18 -> "10¹⁸", 3e18 -> "3×10¹⁸"."""
    if not value > 0 or not math.isfinite(value):
        return f"{value:g}"
    exponent = math.floor(math.log10(value) + 1e-9)
    digits = f"{value / 10.0**exponent:.3g}"
    tens = "10" + str(exponent).translate(_SUPERSCRIPTS)
    return tens if digits == "1" else f"{digits}×{tens}"


def count(value: float) -> str:
    """1.5e9 -> "1.5B"."""
    text = short(value)
    number = text.rstrip("kMBT")
    return f"{float(number):g}{text[len(number) :]}"


def plain(value: float) -> str:
    """2.310 -> "2.31"."""
    return f"{value:.4g}"


def text_of(kind: str, value: float) -> str:
    """The tick's label on an axis of this kind."""
    return {"flops": power, "count": count}.get(kind, plain)(value)
