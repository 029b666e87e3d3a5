"""A table from anywhere -> the columns of a law: names mapped, rows that must not enter left out, loudly."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from scaling_jax.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

    from scaling_jax.fitting import Law

# What columns are called in our own results table, and in tables seen elsewhere; the first that exists is taken.
USUAL_NAMES = {
    "N": ("N", "params_matmul", "params", "params_total", "parameters", "n_params", "num_params", "model_size"),
    "D": ("D", "tokens", "training_tokens", "train_tokens", "n_tokens", "samples"),
    "C": ("C", "flops", "compute", "training_flops", "training_compute"),
    "U": ("U", "unique_tokens"),
    "E": ("E", "experts", "num_experts"),
    "M": ("M", "tokens_per_param"),
    "y": ("y", "loss", "val_loss", "validation_loss", "final_loss"),
}
COUNTED_APART = 0.05  # in ln C: by this much FLOPs may differ from 6 N D without a word
N_CONVENTIONS = ("params_matmul", "params_non_embedding", "params_total")


@dataclasses.dataclass(frozen=True)
class Columns:
    """The numbers of a fit and where they came from.

    Attributes:
      data: law input -> (n,) values.
      y: (n,) what the law describes.
      C: (n,) training FLOPs; 6 N D where the table has none; None for laws without N and D.
      clusters, weights: (n,) or None.
      rows: (n,) what the table calls these rows: their run_id, or their position from 0.
      conventions: other counts of N in the table -> (n,) values.
      names: law input, y, C -> the column it was read from.
      notes: sentences about what was left out or assumed.
    """

    data: dict[str, np.ndarray]
    y: np.ndarray
    C: np.ndarray | None
    clusters: np.ndarray | None
    weights: np.ndarray | None
    rows: np.ndarray
    conventions: dict[str, np.ndarray]
    names: dict[str, str]
    notes: list[str]


def parse_mapping(pairs: Sequence[str], flag: str = "--columns") -> dict[str, str]:
    """["N=params,D=tokens", "y=loss"] -> {"N": "params", "D": "tokens", "y": "loss"}.

    A comma separates pairs only where NAME= follows, so that columns may have commas in their names.

    Raises:
      UserError: a pair without "=", or a name given twice.
    """
    out = {}
    for pair in (pair for text in pairs for pair in re.split(r",\s*(?=\w+=)", text)):
        name, separator, column = pair.partition("=")
        if not (separator and name.strip() and column.strip()):
            example = {"--at": "U=1e11", "--fix": "E=1.69", "--where": "source=c4"}.get(
                flag, "N=params,D=tokens,y=loss"
            )
            raise UserError(f"{flag}: {pair!r} is not NAME=VALUE; write e.g. {flag}={example}")
        if name.strip() in out:
            raise UserError(f"{flag} gives {name.strip()} twice: {out[name.strip()]} and {column.strip()}")
        out[name.strip()] = column.strip()
    return out


def read_columns(
    table: pd.DataFrame,
    law: Law,
    *,
    columns: Mapping[str, str] | None = None,
    where: Mapping[str, str] | None = None,
    cluster_column: str = "",
    weight_column: str = "",
) -> Columns:
    """Takes the columns of a law out of a table.

    Args:
      table: one row per run.
      law: whose inputs are wanted.
      columns: input, "y" or "C" -> column of the table; what is missing is looked up under its usual names.
      where: column -> value: only rows that hold this value enter.
      cluster_column: rows that share its value are not independent; "" for none.
      weight_column: weights of the rows; "" for none.

    Raises:
      UserError: a column is missing or not numeric, nothing is left, or rows come from several corpora.
    """
    inputs, columns, notes = law.inputs, dict(columns or {}), []
    table = table.reset_index(drop=True).rename(columns=lambda c: c.strip() if isinstance(c, str) else c)
    unknown = sorted(set(columns) - {*inputs, "y", "C", *_derived_from(inputs)})
    if unknown:
        raise UserError(f"--columns maps {unknown[0]!r}; this law takes {', '.join([*inputs, 'y', 'C'])}")
    table = _rows_that_enter(table, where or {}, notes)
    _refuse_mixed_corpora(table)
    names: dict[str, str] = {}

    def take(name: str, optional: bool = False) -> np.ndarray | None:
        column = _find(table, name, columns, optional)
        if column is None:
            return None
        names[name] = column
        return _numbers(table, column)

    data = {}
    for name in inputs:
        values = take(name, optional=name == "M")
        if values is None:  # over-training laws count tokens per parameter
            values = take("D") / take("N")
            names["M"] = f"{names.pop('D')} / {names['N']}"
        data[name] = values
    y = take("y")
    C = law.compute(data)
    if C is not None:
        counted = take("C", optional=True)
        if counted is not None:
            _refuse(
                counted, ~(np.isfinite(counted) & (counted > 0)), names["C"], "FLOPs are positive and finite", table
            )
            with np.errstate(all="ignore"):  # an N or D that is not positive is refused by the fit
                ratio = counted / C
            if np.all(ratio > 0) and np.max(np.abs(np.log(ratio))) > COUNTED_APART:
                notes.append(
                    f"{names['C']} is {ratio.min():.2f} to {ratio.max():.2f} times 6 N D: the law's frontier counts "
                    "C as 6 N D, the IsoFLOP sweeps and the envelope as the table does"
                )
            C = counted
        else:
            names["C"] = "6 N D"
            notes.append("no column of FLOPs (map one with --columns=C=<column>): C = 6 N D")
    for flag, column in (("--cluster_column", cluster_column), ("--weight_column", weight_column)):
        if column and column not in table:
            raise UserError(f"{flag}={column}: the table has {_listed(table)}")
    return Columns(
        data=data,
        y=y,
        C=C,
        clusters=table[cluster_column].to_numpy() if cluster_column else None,
        weights=_numbers(table, weight_column) if weight_column else None,
        rows=table.get("run_id", table.index).to_numpy(),
        conventions=_other_counts(table, names["N"]) if "N" in inputs else {},
        names=names,
        notes=notes,
    )


def _other_counts(table: pd.DataFrame, used: str) -> dict[str, np.ndarray]:
    """The other ways in which the table counts parameters, where every row has a positive number."""
    import pandas as pd

    out = {}
    for column in N_CONVENTIONS:
        if column in table and column != used:
            values = pd.to_numeric(table[column], errors="coerce").to_numpy(np.float64)
            if np.all(np.isfinite(values) & (values > 0)):
                out[column] = values
    return out


def _refuse(values: np.ndarray, bad: np.ndarray, column: str, rule: str, table: pd.DataFrame) -> None:
    if bad.any():
        row = int(np.argmax(bad))
        raise UserError(
            f"column {column}, row {table.index[row]}: {values[row]:g}; {rule}: correct it, or leave such rows out "
            f"({int(bad.sum())} of {len(table)})"
        )


def _rows_that_enter(table: pd.DataFrame, where: Mapping[str, str], notes: list[str]) -> pd.DataFrame:
    total = len(table)
    if "status" in table and "status" not in where and table["status"].notna().any():
        others = table.loc[table["status"] != "done", "status"].value_counts(dropna=False)
        if len(others):
            counts = ", ".join(f"{n} {status}" for status, n in others.items())
            left = int(others.sum())
            way = f"; if {others.index[0]!s} is how finished runs are called, --where=status={others.index[0]!s}"
            notes.append(
                f"LEFT OUT {left} of {total} rows whose status is not done: {counts}" + (way if left == total else "")
            )
            table = table[table["status"] == "done"]
    for column, value in where.items():
        if column not in table:
            raise UserError(f"--where={column}={value}: the table has {_listed(table)}")
        chosen = _equals(table[column], value)
        notes.append(f"--where={column}={value}: {int(chosen.sum())} of {len(table)} rows enter")
        table = table[chosen]
    if not len(table):
        raise UserError(f"none of {total} rows is left: " + ("; ".join(notes) or "the table is empty"))
    return table


def _equals(column: pd.Series, value: str) -> pd.Series:
    """Rows equal to a value given as text: as numbers where both are numbers ("0" is 0.0), else as text."""
    import pandas as pd

    numbers, number = pd.to_numeric(column, errors="coerce"), pd.to_numeric(value, errors="coerce")
    return (numbers == number) if pd.notna(number) and numbers.notna().any() else column.astype(str) == value


def _refuse_mixed_corpora(table: pd.DataFrame) -> None:
    if "dataset_hash" not in table:
        return
    counts = table["dataset_hash"].astype(str).value_counts()
    if len(counts) > 1:
        listed = ", ".join(f"{name} ({n} rows)" for name, n in counts.items())
        raise UserError(
            f"rows come from {len(counts)} different corpora, dataset_hash {listed}: their losses cannot be compared; "
            f"fit one at a time with --where=dataset_hash={counts.index[0]}"
        )


def _find(table: pd.DataFrame, name: str, columns: Mapping[str, str], optional: bool) -> str | None:
    if name in columns:
        if columns[name] not in table:
            raise UserError(f"--columns={name}={columns[name]}: the table has {_listed(table)}")
        return columns[name]
    by_lower = {str(c).lower(): c for c in reversed(list(table.columns))}
    for usual in USUAL_NAMES.get(name, (name,)):
        if usual in table:
            return usual
        if len(usual) > 1 and usual in by_lower:  # single letters mean different things in different case
            return by_lower[usual]
    if optional:
        return None
    usual = ", ".join(u for u in USUAL_NAMES.get(name, ())[:3] if u != name)
    known = f"{name} ({usual})" if usual else name
    raise UserError(f"no column for {known}: the table has {_listed(table)}; map one with --columns={name}=<column>")


def _numbers(table: pd.DataFrame, column: str) -> np.ndarray:
    import pandas as pd

    values = pd.to_numeric(table[column], errors="coerce")
    bad = values.isna() & table[column].notna()
    if bad.any():
        raise UserError(f"column {column}, row {table.index[bad][0]}: {table[column][bad].iloc[0]!r} is not a number")
    missing = values.isna()
    if missing.any():
        raise UserError(
            f"column {column} is empty in {int(missing.sum())} rows (first: row {table.index[missing][0]}); "
            "drop them or fill them in"
        )
    return values.to_numpy(np.float64)


def _derived_from(inputs: Sequence[str]) -> tuple[str, ...]:
    return ("D",) if "M" in inputs else ()


def _listed(table: pd.DataFrame, limit: int = 30) -> str:
    names = list(map(str, table.columns))
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")
