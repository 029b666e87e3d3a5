"""Numbers as people write them: 70M, 1.4 B, 3e20 FLOPs, 70,000,000, 1.234,5, 3 x 10^20, 11%."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

import numpy as np

from scaling_jax.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

EMPTY = frozenset((
    "", "nan", "null", "none", "n/a", "na", "n.a", "?", "tbd", "<na>", "#n/a",
    "missing", "diverged", "div", "crashed", "failed", "oom", "error", "running", "pending", "unstable", "dnf", "x",
))  # fmt: skip
SUFFIXES = {"k": 1e3, "m": 1e6, "b": 1e9, "g": 1e9, "t": 1e12}
WORDS = {"thousand": 1e3, "million": 1e6, "billion": 1e9, "trillion": 1e12, "mn": 1e6, "bn": 1e9, "mio": 1e6}
SI = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12, "p": 1e15, "e": 1e18, "z": 1e21, "y": 1e24}
UNITS = r"(?:params?|parameters?|tokens?|toks?|tok|samples?|images?|nats?|bits?)"
_EXCEL_ERROR = re.compile(r"#[a-z0-9/]+[!?]")
# A raised digit is a footnote only of a number with a decimal point: 10\u00b2 is a hundred.
_FOOTNOTE = re.compile(r"(.*[\dkmbt])\s*(?:[*\u2020\u2021\u00a7]+|\[\w\])|(.*\d\.\d+)[\u00b9\u00b2\u00b3]", re.I)
_BOLD = re.compile(r"(\*\*|__)(.+)\1")  # Markdown's
_UNCERTAIN = re.compile(
    r"(?<=\d)\s*(?:\u00b1|\+/?-)\s*[\d.,]+(?:e[+-]?\d+)?$|(?<=\.\d)\(\d+\)$|(?<=\d\d)\(\d+\)$", re.I
)
_PLAIN = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.I)
_POWER = re.compile(
    r"(?:([+-]?[\d.]+)\s*(?:x|\u00d7|\*|\u00b7)\s*10\s*(?:\^|\*\*)?|10\s*(?:\^|\*\*))\s*\{?([+-]?\d+)\}?"
)
_FLOPS = re.compile(r"(.*?)\s*([kmgtpezy]?)flops?", re.I)
_SUFFIXED = re.compile(rf"(.*?\d\.?)\s*([kmbgt]|{'|'.join(WORDS)})?\s*{UNITS}?", re.I)
_SPACED = re.compile(r"[+-]?\d{1,3}(?:[ '\u2019_\u00a0\u202f\u2009]\d{3})+(?:[.,]\d+)?")
_COMMA_GROUPS = re.compile(r"[+-]?\d{1,3}(?:,\d{3})+(?:\.\d+)?")
_DOT_GROUPS = re.compile(r"[+-]?\d{1,3}(?:\.\d{3})+(?:,\d+)?")
_DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+(?:e[+-]?\d+)?", re.I)


def decimal_mark(cells: list[str]) -> str | None:
    """The decimal separator of one table's cells: "," or "." where some cell can be read in one way only.

    Args:
      cells: stripped texts from any of its columns.

    Returns:
      None where no cell decides, e.g. where every comma is followed by exactly three digits.
    """
    commas = dots = False
    for cell in cells:
        number = _SUFFIXED.fullmatch(cell)
        text = (number.group(1) if number else cell).strip()
        if "," not in text and text.count(".") < 2:
            continue
        if _COMMA_GROUPS.fullmatch(text):
            dots |= text.count(",") > 1 or "." in text or text.startswith(("0,", "00"))
            commas |= text.lstrip("+-").startswith("0,")
        elif _DOT_GROUPS.fullmatch(text):
            commas |= text.count(".") > 1 or "," in text
        elif _DECIMAL_COMMA.fullmatch(text):
            commas = True
    return "," if commas and not dots else "." if dots and not commas else None


def parse(text: str, mark: str | None = None) -> float:
    """One number; nan for an empty cell.

    Args:
      text: of the cell.
      mark: the table's decimal mark, as `decimal_mark` finds it; None where it is unknown.

    Raises:
      ValueError: not a number, or one that can be read in two ways.

    Example:
      >>> parse("1.4B"), parse("70,000,000"), parse("3 x 10^20"), parse("1,5", ",")
      (1400000000.0, 70000000.0, 3e+20, 1.5)
    """
    text = text.strip().lstrip("=").strip("\"'").replace("\u2212", "-").strip()
    text = _BOLD.sub(r"\2", text)
    if footnote := _FOOTNOTE.fullmatch(text):
        text = footnote[1] or footnote[2]
    text = _UNCERTAIN.sub("", text)
    text = text.strip("$").replace("\\times", "x").replace("\\cdot", "x")  # LaTeX
    if is_empty(text):
        return float("nan")
    if text.lower().lstrip("+-") in ("inf", "infinity"):
        return float("-inf") if text.startswith("-") else float("inf")
    text = text.lstrip("~\u2248").strip()
    if text.endswith("%"):
        return _digits(text[:-1].strip(), mark) / 100
    if match := _FLOPS.fullmatch(text):
        return _product(match.group(1), SI[match.group(2).lower()], mark)
    match = _SUFFIXED.fullmatch(text)
    if match and not _PLAIN.fullmatch(text):
        suffix = (match.group(2) or "").lower()
        return _product(match.group(1), SUFFIXES.get(suffix) or WORDS.get(suffix, 1.0), mark)
    return _product(text, 1.0, mark)


def _product(text: str, factor: float, mark: str | None) -> float:
    text = text.strip()
    if power := _POWER.fullmatch(text):
        return float(f"{float(power.group(1) or 1):.17g}e{int(power.group(2))}") * factor
    value = _digits(text, mark)
    # 1.4 x 1e9 is 1400000000 exactly; the product of the two floats need not be.
    product = value * factor
    return float(round(product)) if factor > 1 and math.isclose(product, round(product), rel_tol=1e-14) else product


def _digits(text: str, mark: str | None) -> float:
    if _PLAIN.fullmatch(text) and not (mark == "," and "." in text):
        return float(text)
    if _SPACED.fullmatch(text):
        text = re.sub(r"[ '\u2019_\u00a0\u202f\u2009]", "", text)
    if mark == ",":
        if "." in text and not _DOT_GROUPS.fullmatch(text):
            raise ValueError(f"{text!r} in a table with decimal commas")
        text = text.replace(".", "").replace(",", ".")
    elif _COMMA_GROUPS.fullmatch(text):
        if mark is None and text.count(",") == 1 and "." not in text:
            raise ValueError(f"{text!r} may be {text.replace(',', '.')} or {text.replace(',', '')}")
        text = text.replace(",", "")
    if not _PLAIN.fullmatch(text):
        raise ValueError(f"{text!r} is not a number")
    return float(text)


def all_plain(cells: list[str]) -> bool:
    """True for cells of which every one that is filled is a number as Python writes it, and not all are empty."""
    filled = [cell for cell in cells if cell.strip()]
    return bool(filled) and all(map(is_plain, filled))


def is_plain(cell: str) -> bool:
    """True for a number as Python writes it."""
    try:
        float(cell)
    except ValueError:
        return False
    return True


def is_empty(text: str) -> bool:
    """True for a cell that stands for no number: blank, a dash, `N/A`, `(diverged)`, `NaN (OOM)`, an error of Excel."""
    text = text.strip(" ()[].*-_\u2013\u2014\u2026\x1a").lower()
    return text in EMPTY or text.startswith("nan ") or _EXCEL_ERROR.fullmatch(text) is not None


def to_numbers(column: pd.Series, name: str, mark: str | None = None) -> tuple[np.ndarray, str | None]:
    """A column as float64, and an example of how it was written where that was not plain.

    Args:
      column: of any dtype.
      name: for messages.
      mark: the table's decimal mark.

    Raises:
      UserError: a cell that is not a number, with its row and the way out.
    """
    import pandas as pd

    if isinstance(column.dtype, pd.CategoricalDtype):
        column = column.astype(object)
    if pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_complex_dtype(column):
        return column.to_numpy(np.float64, na_value=np.nan), None
    out, example = np.full(len(column), np.nan), None
    for i, cell in enumerate(column):
        if isinstance(cell, str):
            try:
                out[i] = parse(cell, mark)
            except ValueError as error:
                raise UserError(
                    f"column {name}, row {column.index[i]}: {cell!r} is not a number ({error}); write plain numbers "
                    "such as 70000000, 7e7 or 70M"
                ) from None
            if example is None and np.isfinite(out[i]) and not _PLAIN.fullmatch(cell.strip()):
                example = f"{cell.strip()} as {out[i]:.10g}"
        elif cell is not None and cell is not pd.NA:
            try:
                out[i] = float(cell)
            except (TypeError, ValueError, OverflowError):
                raise UserError(f"column {name}, row {column.index[i]}: {str(cell)[:60]!r} is not a number") from None
    return out, example


def looks_numeric(column: pd.Series, mark: str | None = None) -> bool:
    """True where every cell is a number or empty, and not all are empty."""
    try:
        values, _ = to_numbers(column, "", mark)
    except UserError:
        return False
    return bool(np.isfinite(values).any())
