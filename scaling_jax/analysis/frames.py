"""Typed views of pandas objects: what pandas' own types leave open."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd


def rows_of(frame: pd.DataFrame) -> Iterator[Any]:
    """The rows in order, as objects with an attribute per column."""
    return iter(frame.itertuples())


def groups_of(frame: pd.DataFrame, keys: list[str]) -> Iterator[tuple[tuple[Any, ...], pd.DataFrame]]:
    """(values of the keys, rows) of each group, in order of first appearance."""
    # Of a list of keys pandas always gives tuples, which its types leave open.
    yield from frame.groupby(keys, sort=False, dropna=False)  # pyright: ignore[reportReturnType]


def names_of(table: pd.DataFrame) -> list[str]:
    """The names of the columns, which are text in every table that has been read."""
    return [str(name) for name in table.columns]


def log(values: pd.Series) -> pd.Series:
    """Natural logarithm with the index kept; nan or -inf where there is none."""
    with np.errstate(all="ignore"):
        return pd.Series(np.log(values), index=values.index)
