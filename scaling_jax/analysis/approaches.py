"""The other two approaches on the same runs, and how far they agree with the law."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from scaling_jax import fitting
from scaling_jax.analysis.isoflop import Sweeps, budgets, over_seeds
from scaling_jax.text import short

FAR_APART = 1.5
NO_INTERVAL = (float("nan"), float("nan"))


def envelope(runs: pd.DataFrame) -> fitting.Envelope | None:
    """The lower hull of the runs, seeds averaged, or None where fewer than two are on it."""
    runs, _ = over_seeds(runs)
    try:
        # Of runs of one budget the best counts, not the one that rounding made a little cheaper.
        return fitting.envelope(runs.N, runs.D, budgets(runs), runs.y)
    except fitting.FitError:
        return None


def side_by_side(
    fits: Mapping[str, tuple[fitting.Fit, float]],
    interval: tuple[float, float],
    sweeps: Sweeps,
    hull: fitting.Envelope | None,
    target: float,
    level: float,
) -> pd.DataFrame:
    """One row per approach that the runs allow: approach, a (N* ~ C^a), low, high, N (N* at the target).

    Args:
      fits: law -> (fit on all runs, N* at the target); the first is the one that is believed.
      interval: of the first one's exponent.
      sweeps, hull: the other approaches.
      target, level: FLOPs, and of the intervals.
    """
    rows = []
    for i, (name, (fit, N)) in enumerate(fits.items()):
        if "a" in fit.law.exponents:
            rows.append((name, float(fit.law.exponents["a"](fit.params)), *(interval if i == 0 else NO_INTERVAL), N))
    isoflop = "IsoFLOP curves" + (" (interpolated)" if sweeps.interpolated else "")
    for name, found in ((isoflop, sweeps.found), ("lowest hull", hull)):
        if found is not None:
            rows.append((name, found.a, *found.interval(level)["a"], float(found.frontier(target).N[0])))
    return pd.DataFrame(rows, columns=["approach", "a", "low", "high", "N"])


def disagreement(beside: pd.DataFrame, target: float) -> list[str]:
    """How far the first approach and the others are apart at the target, where that is worth saying."""
    beside = beside[beside.approach != "lowest hull"]  # a step function of the scales: always far off
    if len(beside) < 2:
        return []
    low, high = beside.loc[beside.N.idxmin()], beside.loc[beside.N.idxmax()]
    if high.N < FAR_APART * low.N:
        return []
    return [
        f"at {target:.3g} FLOPs N* is {short(low.N)} by {low.approach} and {short(high.N)} by {high.approach}: "
        "the frontier is no surer than that"
    ]
