"""A table of runs in a workbook: of several sheets, below titles, with merged cells."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pandas as pd

from scaling_jax.analysis import numerals
from scaling_jax.errors import UserError


def read_excel(content: bytes, ending: str) -> tuple[pd.DataFrame, list[str]]:
    """The first sheet that is a table, and notes on what was not plain.

    Args:
      content: of the file.
      ending: of its name.

    Raises:
      UserError: no table, no names above the numbers, or several sheets that hold such a table.
    """
    sheets = pd.read_excel(io.BytesIO(content), sheet_name=None, header=None)
    filled = {name: sheet for name, sheet in sheets.items() if len(sheet.dropna(how="all"))}
    if not filled:
        raise UserError("no sheet has a row")
    first = next((name for name, sheet in filled.items() if _is_table(sheet)), next(iter(filled)))  # not notes
    others = [name for name in filled if name != first]
    twins = [name for name in others if _names(filled[name]) == _names(filled[first]) and _is_table(filled[name])]
    if twins:
        raise UserError(
            f"sheets {first!r} and {twins[0]!r} hold the same columns: keep one, or put all rows into one sheet"
        )
    notes = [f"read from the sheet {first!r}; other sheets are not read: {', '.join(map(str, others))}"]
    cells = filled[first].astype(object)
    if ending in (".xlsx", ".xlsm"):
        _fill_merged(cells, content, first)
    cells = cells.dropna(how="all").dropna(how="all", axis=1)
    titles = int(np.argmax(cells.notna().sum(axis=1).to_numpy() > (cells.shape[1] > 1)))  # rows of one cell
    if numerals.all_plain([str(cell) for cell in cells.iloc[titles]]):
        raise UserError("the first row holds numbers, not names; add a header row such as params,tokens,loss")
    names = ["" if pd.isna(c) else str(c) for c in cells.iloc[titles]]
    names = [name or f"column {i}" for i, name in enumerate(names, 1)]
    table = cells.iloc[titles + 1 :].set_axis(pd.Index(names), axis=1).reset_index(drop=True)
    notes = notes if others else []
    if titles:
        notes.append(f"skipped {titles} row{'s' * (titles > 1)} above the names")
    return table.infer_objects(), notes


def _names(sheet: pd.DataFrame) -> list[Any]:
    """The cells of the first row of several."""
    rows = (row.dropna().tolist() for _, row in sheet.iterrows())
    return next((row for row in rows if len(row) > 1), [])


def _is_table(sheet: pd.DataFrame) -> bool:
    return sheet.dropna(how="all", axis=1).shape[1] > 1


def _fill_merged(cells: pd.DataFrame, content: bytes, sheet: Any) -> None:
    """Gives every cell of a merged range the value of its first one."""
    import openpyxl

    book = openpyxl.load_workbook(io.BytesIO(content), data_only=True)
    for area in book[sheet].merged_cells.ranges:
        rows = slice(area.min_row - 1, min(area.max_row, len(cells)))
        columns = slice(area.min_col - 1, min(area.max_col, cells.shape[1]))
        if rows.start < len(cells) and columns.start < cells.shape[1] and columns.stop - columns.start == 1:
            first: Any = cells.iat[rows.start, columns.start]
            cells.iloc[rows, columns] = first
