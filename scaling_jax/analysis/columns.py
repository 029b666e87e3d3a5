"""Options for reading a table, and labels of its sizes and trunks."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Mapping
from typing import Any

import pandas as pd

from scaling_jax.errors import UserError
from scaling_jax.text import short

MANY_SIZES = 2000


@dataclasses.dataclass(frozen=True)
class Columns:
    """Options for reading a table.

    Attributes:
      names: law input, "y" or "C" -> a column, or arithmetic of columns such as "params*1e6" or "a + b"; what is
        missing is looked up under its usual names.
      where: conditions that every row must meet; see `rows_where`.
      cluster: rows that share this column's value are not independent; "" takes the trunks of our own tables.
      weight: column of weights; "" for none.
      best: keep the lowest y of each (N, D, seed) where rows differ in a tuned quantity. Our own tables always do so.
    """

    names: Mapping[str, str] = dataclasses.field(default_factory=dict)
    where: tuple[str, ...] = ()
    cluster: str = ""
    weight: str = ""
    best: bool = False


def as_frame(table: Any) -> pd.DataFrame:
    """A DataFrame from pandas, polars, Arrow, a mapping of columns or a list of records."""
    if isinstance(table, pd.DataFrame):
        named = [n for n in table.index.names if n is not None and n not in table.columns]
        return table.reset_index() if named else table
    if hasattr(table, "to_pandas"):
        return table.to_pandas()
    try:
        return pd.DataFrame(table)
    except (ValueError, TypeError) as error:
        raise UserError(f"a {type(table).__name__} is not a table of runs: {error}") from None


def trunk_labels(best: pd.DataFrame) -> pd.Series:
    """Runs of one scale, rate and seed are taken for branches of one trunk."""
    return best["scale"].map(str) + "/" + best["lr"].map(str) + "/" + best["seed"].map(str)


def size_labels(N: pd.Series) -> pd.Series:
    """A name per size; sizes that print alike get more digits."""
    names: dict[float, str] = {}
    sizes = N.dropna().unique().tolist()
    few = [short] if len(sizes) <= MANY_SIZES else []  # of more, most would print alike
    for label in (*few, "{:.6g}".format, repr):
        labels = {n: label(n) for n in sizes if n not in names}
        counts = collections.Counter(labels.values())
        names |= {n: text for n, text in labels.items() if counts[text] == 1}
    return N.map(names).astype(object).fillna("all")
