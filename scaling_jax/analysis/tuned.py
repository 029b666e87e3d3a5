"""Rows that differ only in a tuned quantity: a sweep over learning rates is not a set of independent runs."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np
import pandas as pd

from scaling_jax.analysis.frames import log, names_of
from scaling_jax.analysis.header import USUAL_NAMES, Header, simple
from scaling_jax.analysis.runs import Sweep

TUNED = (
    "lr", "rate", "decay", "wd", "batch", "bs", "warmup", "beta", "b1", "b2", "momentum", "dropout", "init",
    "optimizer", "optim", "schedule", "scheduler", "eps", "epsilon", "clip", "clipping", "hparam", "hparams", "hyper",
)  # fmt: skip
RUN_NAMES = ("run", "run_id", "run_name", "runid", "trial_id", "wandb_id", "experiment_id", "job_id")
STEPS = ("step", "iter", "iteration", "global_step", "trainer_global_step")  # as loggers call them
MAX_VALUES = 64  # a swept quantity takes few values
UNLABELED = 0.02  # spread of ln y from which rows of one (N, D) that no column distinguishes are reported


def find_sweep(done: pd.DataFrame, values: pd.DataFrame, header: Header, names: Mapping[str, str]) -> Sweep | None:
    """The sweep over a tuned quantity in a table, or None; replicates that differ by their seed are not one.

    Args:
      done: finished rows with N, D, y.
      values: what a law reads, by row.
      header: of the table.
      names: columns that were read.
    """
    inputs = [k for k in names_of(values) if k not in ("C", "y") and values[k].notna().all()]
    if not inputs:
        return None
    groups = done.groupby([values.loc[done.index, k] for k in inputs], sort=False)
    several = done[(groups.y.transform("size") > 1).fillna(False)]
    if not len(several):
        return None
    logs = log(several.y.where(several.y > 0))
    by_cell = logs.groupby([values.loc[several.index, k] for k in inputs], sort=False)
    spread = float(np.expm1((by_cell.max() - by_cell.min()).max()))
    column = _differing(several, [values.loc[several.index, k] for k in inputs], header, set(names.values()))
    if column is None or (column == "" and not spread > UNLABELED):
        return None
    return Sweep(groups=by_cell.ngroups, cells=groups.ngroups, column=column, spread=spread, best_taken=False)


def learning_curves(done: pd.DataFrame, header: Header) -> str:
    """A sentence where several rows are points of one run's learning curve; "" where every row is a run.

    They are where a column that names runs (or, beside a logged step, models) has groups of three rows or more, each of
    one N and rising D.

    Args:
      done: finished rows with N, D.
      header: of the table.
    """
    table, last = header.table, {c: simple(re.split(r"[/.:]", c)[-1]) for c in names_of(header.table)}
    steps = [c for c in last if last[c] in STEPS and table.loc[done.index, c].nunique() > 2]
    runs = [c for c in last if last[c] in RUN_NAMES or (steps and last[c] in ("name", "id", "model"))]
    for column in runs:
        groups = done.groupby(table.loc[done.index, column].map(str), sort=False)
        curves = groups.filter(lambda g: len(g) > 2 and g.N.nunique() == 1 and g.D.nunique() == len(g))
        if 2 * len(curves) > len(done):
            return (
                f"{len(curves)} of {len(done)} rows are points along {column}, {len(curves) // groups.ngroups} each: "
                "the points of a run share its luck, and before the rate has decayed they are no final losses; keep "
                f"the last row of each, or, at a constant rate, give --cluster_column={column}"
            )
    return ""


def _differing(several: pd.DataFrame, keys: list[pd.Series], header: Header, used: set[str]) -> str | None:
    """The tuned column that differs within groups; None where a seed does, "" where no column says what does."""
    seeds = {c for c in names_of(header.table) if simple(re.split(r"[/.:]", c)[-1]) in USUAL_NAMES["seed"]}
    with_seed = [*keys, *(header.table.loc[several.index, c].map(str) for c in seeds)]
    candidates: list[tuple[bool, int, str]] = []
    seeded = False
    for column in names_of(header.table):
        if column in used or header.table[column].isna().all():
            continue
        cells = header.table.loc[several.index, column].map(str)
        per_group = cells.groupby(keys, sort=False).nunique()
        if not (per_group > 1).any():
            continue
        if column in seeds:
            seeded = True
            continue
        distinct = cells.nunique()
        if not is_tuned(column) and not (cells.groupby(with_seed, sort=False).nunique() > 1).any():
            continue  # a node, a date: another one for each seed
        if (distinct > MAX_VALUES or distinct >= len(cells)) and not is_tuned(
            column
        ):  # names, ids and other measurements
            continue
        if distinct * 2 > len(cells) and distinct > 4 and not is_tuned(column):
            continue
        candidates.append((not is_tuned(column), distinct, column))
    if candidates:
        return min(candidates)[2]
    return None if seeded else ""


def is_tuned(column: str) -> bool:
    """Returns True for the name of a quantity that is tuned, such as peak_lr or weight_decay."""
    parts = simple(re.sub(r"(?<=[a-z])(?=[A-Z])", "_", column)).split("_")
    return any(part in TUNED or part.rstrip("s0123456789") in TUNED for part in parts)
