"""The other two approaches on the same runs, and how far they agree with the law."""

from __future__ import annotations

import numpy as np
import pandas as pd

from scaling_jax import fitting
from scaling_jax.fitting.text import short

# A budget rounded to whole steps is off by less; a run that is off by more looks better for it.
BUDGET_WIDTH = 0.03
MIN_SIZES = 3
FAR_APART = 1.5


def isoflop(runs: pd.DataFrame, noise: float | None) -> tuple[fitting.IsoFlop | None, str]:
    """IsoFLOP sweeps over the budgets that at least three sizes share, or None and why not.

    Args:
      runs: columns scale, N, D, C, y, one row per run; seeds are averaged.
      noise: standard deviation of ln y between seeds, where it is known.
    """
    runs, repeats = over_seeds(runs)
    shared = runs.groupby(budgets(runs)).N.transform("nunique") >= MIN_SIZES
    rows, count = runs[shared], runs[shared].pipe(budgets).nunique()
    if count < 2:
        said = "1 FLOP budget is" if count else "no FLOP budget is"
        return None, f"{said} shared by {MIN_SIZES} or more scales, and IsoFLOP curves need two (budgets.flops)"
    noise = noise and noise / repeats**0.5
    try:
        return fitting.isoflop(rows.N, rows.D, rows.C, rows.y, noise=noise, tolerance=BUDGET_WIDTH), ""
    except fitting.FitError as error:
        return None, str(error)


def budgets(runs: pd.DataFrame) -> pd.Series:
    """The FLOP budget of each run: the mean C of the runs whose C is equal but for rounding to whole steps."""
    ordered = np.log(runs["C"]).sort_values()
    group = (ordered.diff() > np.log1p(BUDGET_WIDTH)).cumsum()
    width = ordered.groupby(group).transform(np.ptp)
    # Costs that follow each other closely are no budgets.
    mean = ordered.groupby(group).transform("mean").where(width <= 2 * np.log1p(BUDGET_WIDTH), ordered)
    return np.exp(mean).reindex(runs.index)


def over_seeds(runs: pd.DataFrame) -> tuple[pd.DataFrame, float]:
    """One row per (scale, tokens) with the geometric mean of y over seeds, and how many seeds there are on average.

    Of repeats the luckiest would be taken for an optimum.
    """
    groups = runs.assign(y=np.log(runs.y)).groupby(["scale", "D"], sort=False)[["N", "D", "C", "y"]]
    means = groups.mean()
    return means.assign(y=np.exp(means.y)).reset_index(drop=True), len(runs) / max(len(means), 1)


def envelope(runs: pd.DataFrame) -> fitting.Envelope | None:
    """The lower hull of the runs, seeds averaged, or None where fewer than two are on it."""
    runs, _ = over_seeds(runs)
    try:
        # Of runs of one budget the best counts, not the one that rounding made a little cheaper.
        return fitting.envelope(runs.N, runs.D, budgets(runs), runs.y)
    except fitting.FitError:
        return None


def side_by_side(params: pd.DataFrame, frontier: pd.DataFrame, sweeps, hull, level: float) -> pd.DataFrame:
    """One row per approach that the runs allow: approach, a (N* ~ C^a), low, high, N (N* at the largest target)."""
    target = frontier.C.iloc[-1] if len(frontier) else np.nan
    rows = [
        ("the law", row.value, row.low, row.high, frontier.N.iloc[-1] if len(frontier) else np.nan)
        for row in params[params.name == "a"].itertuples()
    ]
    for name, found in (("IsoFLOP curves", sweeps), ("lowest hull", hull)):
        if found is not None:
            rows.append((name, found.a, *found.interval(level)["a"], float(found.frontier(target).N[0])))
    return pd.DataFrame(rows, columns=["approach", "a", "low", "high", "N"])


def disagreement(beside: pd.DataFrame, frontier: pd.DataFrame) -> list[str]:
    """How far the law and the IsoFLOP curves are apart at the largest target, where that is worth saying."""
    sizes = beside.set_index("approach").N
    if not {"the law", "IsoFLOP curves"} <= set(sizes.index) or not len(frontier):
        return []
    law, curves = sizes["the law"], sizes["IsoFLOP curves"]
    if max(law / curves, curves / law) < FAR_APART:
        return []
    return [
        f"at {frontier.C.iloc[-1]:.3g} FLOPs the law asks for N* = {short(law)} and the IsoFLOP curves for "
        f"{short(curves)}: the frontier is no surer than that"
    ]
