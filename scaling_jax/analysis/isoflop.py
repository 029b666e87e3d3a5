"""IsoFLOP curves of a ladder: from budgets that scales share, else read off each scale's own line of budgets."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd

from scaling_jax import fitting

# A budget rounded to whole steps is off by less; a run that is off by more looks better for it.
BUDGET_WIDTH = 0.03
MIN_SIZES, GOOD_SIZES, MIN_BUDGETS = 3, 4, 3
MAX_INTERPOLATED, MIN_RATIO = 5, 1.4


@dataclasses.dataclass(frozen=True)
class Sweeps:
    """Losses of several scales at equal compute.

    Attributes:
      points: budget, scale, N, D, y; one row per scale and budget, each budget with at least three scales.
      interpolated: whether y was read between a scale's own budgets, not trained at this one.
      found: optima and exponents, or None; `why` says why not.
    """

    points: pd.DataFrame
    interpolated: bool
    found: fitting.IsoFlop | None
    why: str


def isoflop_sweeps(runs: pd.DataFrame, noise: float | None) -> Sweeps:
    """The IsoFLOP curves that the runs allow.

    Args:
      runs: columns scale, N, D, C, y, one row per run; seeds are averaged.
      noise: standard deviation of ln y between seeds, where it is known.
    """
    runs, repeats = over_seeds(runs)
    points, interpolated = _shared(runs), False
    if len(points) < GOOD_SIZES * max(points.budget.nunique(), 2):
        between = _between(runs)
        if len(between) > len(points):
            points, interpolated = between, True
    if points.budget.nunique() < 2:
        why = f"fewer than two FLOP budgets lie within reach of {MIN_SIZES} scales (set budgets.flops)"
        return Sweeps(points, interpolated, None, why)
    noise = noise and noise / repeats**0.5
    try:
        found = fitting.isoflop(points.N, points.D, points.budget, points.y, noise=noise)
    except fitting.FitError as error:
        return Sweeps(points, interpolated, None, str(error))
    return Sweeps(points, interpolated, found, "")


def over_seeds(runs: pd.DataFrame) -> tuple[pd.DataFrame, float]:
    """One row per (scale, tokens) with the geometric mean of y over seeds, and how many seeds there are on average.

    Of repeats the luckiest would be taken for an optimum.
    """
    groups = runs.assign(y=np.log(runs.y)).groupby(["scale", "D"], sort=False)[["N", "C", "y"]]
    means = groups.mean().reset_index()
    return means.assign(y=np.exp(means.y)), len(runs) / max(len(means), 1)


def budgets(runs: pd.DataFrame) -> pd.Series:
    """The FLOP budget of each run: the mean C of the runs whose C is equal but for rounding to whole steps."""
    ordered = np.log(runs["C"]).sort_values()
    group = (ordered.diff() > np.log1p(BUDGET_WIDTH)).cumsum()
    width = ordered.groupby(group).transform(np.ptp)
    # Costs that follow each other closely are no budgets.
    mean = ordered.groupby(group).transform("mean").where(width <= 2 * np.log1p(BUDGET_WIDTH), ordered)
    return np.exp(mean).reindex(runs.index)


def _shared(runs: pd.DataFrame) -> pd.DataFrame:
    """Runs as trained, at budgets that enough scales share."""
    points = runs.assign(budget=budgets(runs))
    shared = points.groupby("budget").N.transform("nunique") >= MIN_SIZES
    return points.loc[shared, ["budget", "scale", "N", "D", "y"]].sort_values(["budget", "N"]).reset_index(drop=True)


def _between(runs: pd.DataFrame) -> pd.DataFrame:
    """ln y against ln C of each scale, read by monotone interpolation where enough scales reach."""
    from scipy.interpolate import PchipInterpolator

    lines = {}
    for scale, rows in runs.sort_values("D").groupby("scale", sort=False):
        if len(rows) >= MIN_BUDGETS:
            line = PchipInterpolator(np.log(rows["C"]), np.log(rows.y), extrapolate=False)
            lines[scale] = line, rows.N.iloc[0], np.mean(rows["C"] / rows.D)
    grid = np.linspace(np.log(runs["C"].min()), np.log(runs["C"].max()), 400)
    reached = sum((np.isfinite(line(grid)) for line, _, _ in lines.values()), np.zeros(400)) >= MIN_SIZES
    rows = []
    if reached.any():
        first, last = grid[reached][[0, -1]]
        count = int(np.clip((last - first) / np.log(MIN_RATIO), 1, MAX_INTERPOLATED))
        for log_c in np.linspace(first, last, count + 2)[1:-1]:
            C = np.exp(log_c)
            at = [(C, scale, N, C / per_token, np.exp(line(log_c))) for scale, (line, N, per_token) in lines.items()]
            at = [row for row in at if np.isfinite(row[-1])]
            rows += at if len(at) >= MIN_SIZES else []
    return pd.DataFrame(rows, columns=["budget", "scale", "N", "D", "y"]).astype({"y": float})
