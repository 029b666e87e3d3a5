"""IsoFLOP curves of a ladder: at budgets that scales share, else interpolated along each scale's own budgets."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd

from scaling_jax import fitting
from scaling_jax.analysis.runs import over_seeds, same_budget

MIN_SIZES, GOOD_SIZES, MIN_BUDGETS = 3, 4, 3
MAX_INTERPOLATED, MIN_RATIO = 5, 1.4
NOMINAL_WIDTH = 0.25  # in ln C: runs further from every nominal budget belong to none


@dataclasses.dataclass(frozen=True)
class Sweeps:
    """Losses of several scales at equal compute.

    Attributes:
      points: budget, scale, N, D, y; one row per scale and budget, each budget with at least three scales.
      interpolated: whether y was interpolated between a scale's own budgets instead of trained at this one.
      found: optima and exponents, or None; `why` says why not.
    """

    points: pd.DataFrame
    interpolated: bool
    found: fitting.IsoFlop | None
    why: str


def isoflop_sweeps(runs: pd.DataFrame, noise: float | None, nominal: tuple[float, ...] = ()) -> Sweeps:
    """The IsoFLOP curves that the runs allow.

    Args:
      runs: columns scale, N, D, C, y, one row per run; seeds are averaged.
      noise: standard deviation of ln y between seeds, where it is known.
      nominal: budgets that runs were meant for; empty finds them.
    """
    runs, repeats = over_seeds(runs)
    points, interpolated = _shared(runs, nominal), False
    if len(points) < GOOD_SIZES * max(points.budget.nunique(), 2):
        between = _between(runs)
        if len(between) > len(points):
            points, interpolated = between, True
    if points.budget.nunique() < 2:
        why = f"fewer than two FLOP budgets are within reach of {MIN_SIZES} scales (set budgets.flops)"
        return Sweeps(points, interpolated, None, why)
    noise = noise and noise / repeats**0.5
    try:
        found = fitting.isoflop(points.N, points.D, points.budget, points.y, noise=noise)
    except fitting.FitError as error:
        return Sweeps(points, interpolated, None, str(error))
    return Sweeps(points, interpolated, found, "")


def _shared(runs: pd.DataFrame, nominal: tuple[float, ...]) -> pd.DataFrame:
    """Runs as trained, at budgets that enough scales share."""
    budget = same_budget(runs["C"])
    if nominal:
        distance = np.abs(np.log(runs["C"].to_numpy()[:, None] / np.array(nominal)))
        budget = pd.Series(np.array(nominal)[distance.argmin(1)], index=runs.index).where(
            distance.min(1) < NOMINAL_WIDTH
        )
    points = runs.assign(budget=budget).dropna(subset="budget")
    shared = points.groupby("budget").N.transform("nunique") >= MIN_SIZES
    return points.loc[shared, ["budget", "scale", "N", "D", "y"]].sort_values(["budget", "N"]).reset_index(drop=True)


def _between(runs: pd.DataFrame) -> pd.DataFrame:
    """ln y against ln C of each scale, read by monotone interpolation where enough scales reach."""
    from scipy.interpolate import PchipInterpolator

    lines = {}
    enough = runs.groupby("scale").D.transform("size") >= MIN_BUDGETS
    for scale, rows in runs[enough].sort_values("D").groupby("scale", sort=False):
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
