"""Cells that hold objects: columns such as wandb's `summary` and `config` become columns of their own."""

from __future__ import annotations

import ast
import json
import re
from typing import Any

import numpy as np
import pandas as pd

MAX_CELL = 100_000  # characters; deeper nesting than fits there would exhaust Python's own parser


def with_objects(table: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """The table with a column for every entry of the objects in its cells, and a note on which were opened.

    A cell is an object as JSON or Python writes it, e.g. {"val_loss": 3.1} or {'lr': nan}; opened are columns whose
    filled cells all are.
    """
    parts, opened = [], []
    for position, name in enumerate(table.columns):
        column = table.iloc[:, position]
        objects = _objects(column) if not pd.api.types.is_numeric_dtype(column) else None
        if objects is None:
            parts.append(column)
        else:
            parts.append(pd.json_normalize(objects, sep=".").set_axis(column.index).add_prefix(f"{name}."))
            opened.append(str(name))
    if not opened:
        return table, []
    return pd.concat(parts, axis=1), [f"opened the objects in {', '.join(opened)}"]


def _objects(column: pd.Series) -> list[dict[str, Any]] | None:
    out, found = [], False
    for cell in column:
        if isinstance(cell, (list, np.ndarray)):
            return None
        value = cell if isinstance(cell, dict) else _parsed(cell) if isinstance(cell, str) else None
        if value is None and not (cell is None or cell is pd.NA or cell != cell or cell == ""):
            return None
        found |= value is not None
        out.append(value or {})
    return out if found else None


def _parsed(cell: str) -> dict[str, Any] | None:
    text = cell.strip()
    if not (text.startswith("{") and text.endswith("}")) or len(text) > MAX_CELL:
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        try:
            text = re.sub(r"(?<=[:\[, ])(nan|inf)(?=[,}\]])", "None", re.sub(r"np\.\w+\(([^()]*)\)", r"\1", text))
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            return None
    return value if isinstance(value, dict) else None
