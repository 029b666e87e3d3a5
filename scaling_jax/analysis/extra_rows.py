"""Rows of a table that are not runs: units below the names, totals and means at the end."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pandas as pd

from scaling_jax.analysis import numerals
from scaling_jax.analysis.header import USUAL_NAMES, simple

_LABEL = re.compile(r"(grand |sub)?totals?|sum|mean|average|avg\.?|median|std\.?( ?dev\.?)?|stdev", re.I)
_NAMES = {name.lower() for names in USUAL_NAMES.values() for name in names if len(name) > 1}
_AT_MOST = 5  # totals, means, medians ... at the end
_CLOSE = 1e-3  # relative: a mean may be written with fewer digits than its rows


def without_extra_rows(table: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """The rows that may be runs, and a note on those that were none.

    A first row without numbers above columns of numbers holds their units and goes into the names: `params`, `M` makes
    `params (M)`. Last rows that hold the sum, mean or another statistic of the others are left out.

    Args:
      table: of anybody, with its cells as written. `.attrs["decimal"]` is the mark of its numbers where that is known.
    """
    mark = table.attrs.get("decimal")
    table, notes = _with_units(table, mark)
    totals = _totals(table, mark)
    if totals:
        first = table.iloc[-totals].dropna()
        shown = next((str(cell) for cell in first if _is_label(cell)), "the sum or mean of those above")
        notes.append(f"LEFT OUT {totals} of {len(table)} rows, which sum up the others (first: {shown})")
        table = table.iloc[:-totals]
    return table, notes


def _with_units(table: pd.DataFrame, mark: str | None) -> tuple[pd.DataFrame, list[str]]:
    cells = ["" if _is_empty(cell) else cell for cell in table.iloc[0]] if len(table) > 2 else []
    if not any(cells) or not all(isinstance(cell, str) and not re.search(r"\d{3}|^[\d.,]+$", cell) for cell in cells):
        return table, []
    rest, units = table.iloc[1:], {}
    columns = [rest.iloc[:, i] for i in range(len(cells))]
    for i, (column, cell) in enumerate(zip(columns, cells)):
        if numerals.looks_numeric(column, mark):
            columns[i] = pd.Series(numerals.to_numbers(column, "", mark)[0], column.index, name=column.name)
            if cell:
                units[i] = cell.strip(" ()[]")
        elif cell:
            return table, []  # a name of a run, or a word where numbers are expected
    if not units:
        return table, []
    if any(simple(unit) in _NAMES for unit in units.values()):  # names below names of groups of columns
        names = [units.get(i, str(name)) for i, name in enumerate(table.columns)]
        note = "the first row holds the names"
    else:
        names = [f"{name} ({units[i]})" if i in units else str(name) for i, name in enumerate(table.columns)]
        note = f"the first row holds units: {', '.join(names[i] for i in units)}"
    out = pd.concat(columns, axis=1).set_axis(pd.Index(names), axis=1).reset_index(drop=True)
    out.attrs = table.attrs
    return out, [note]


def _totals(table: pd.DataFrame, mark: str | None) -> int:
    """How many of the last rows are statistics of the others."""
    for count in range(min(_AT_MOST, len(table) - 3), 0, -1):
        body, last = table.iloc[:-count], table.iloc[-count:]
        columns = [i for i in range(table.shape[1]) if numerals.looks_numeric(body.iloc[:, i], mark)]
        if columns and all(_is_total(row, body, columns, mark) for _, row in last.iterrows()):
            return count
    return 0


def repeated_rows(table: pd.DataFrame) -> pd.Series:
    """Which rows repeat an earlier one in every column."""
    try:
        return table.duplicated()
    except TypeError:  # a cell that holds a list
        return table.map(str).duplicated()


def _is_total(row: pd.Series, body: pd.DataFrame, columns: list[int], mark: str | None) -> bool:
    labeled = any(_is_label(cell) for cell in row)
    known, others = [], []
    for i in columns:
        try:
            value = numerals.to_numbers(row.iloc[i : i + 1], "", mark)[0][0]
        except ValueError:
            continue  # the label
        if np.isfinite(value):
            known.append(value)
            others.append(numerals.to_numbers(body.iloc[:, i], "", mark)[0])
    if not labeled and len(known) < 3:
        return False
    with np.errstate(all="ignore"):
        found = np.array([[of(x[np.isfinite(x)]) for x in others] for of in _STATISTICS])
        if labeled:  # tokens are summed, losses averaged
            return bool(np.isclose(found, known, rtol=_CLOSE, atol=0).any(axis=0).all())
        return bool(np.isclose(found[:2], known, rtol=1e-6, atol=0).all(axis=1).any())


_STATISTICS = (np.sum, np.mean, np.median, np.std, lambda x: np.std(x, ddof=1))


def _is_label(cell: object) -> bool:
    return isinstance(cell, str) and _LABEL.fullmatch(cell.strip(" :*")) is not None


def _is_empty(cell: Any) -> bool:
    return numerals.is_empty(cell) if isinstance(cell, str) else bool(pd.api.types.is_scalar(cell) and pd.isna(cell))
