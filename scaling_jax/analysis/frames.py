"""Rows of a table as objects with an attribute per column."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd


def rows_of(frame: pd.DataFrame) -> Iterator[Any]:
    """The rows in order; pandas does not type the attributes of its named tuples."""
    return iter(frame.itertuples())
