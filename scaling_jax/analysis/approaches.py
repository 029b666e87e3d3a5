"""Laws, IsoFLOP curves and the lower hull side by side on the same runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from scaling_jax import fitting
from scaling_jax.analysis.fits import fit_law, frontier_inputs
from scaling_jax.analysis.isoflop import Sweeps
from scaling_jax.analysis.runs import Runs
from scaling_jax.errors import UserError
from scaling_jax.fitting.selection import Selection
from scaling_jax.study import Fit

FAR_WORSE, SMALL_ERROR = 3.0, 0.003  # of extrapolation, in ln y: below the second no law is told from another
NO_INTERVAL = (float("nan"), float("nan"))


def side_by_side(
    fits: Mapping[str, tuple[fitting.Fit, float]],
    interval: tuple[float, float],
    sweeps: Sweeps,
    hull: fitting.Envelope | None,
    forecast: Callable[[np.ndarray], Any],
    target: float,
    level: float,
) -> pd.DataFrame:
    """One row per approach that the runs allow: approach, a (N* ~ C^a), low, high, N (N* at the target).

    Args:
      fits: law -> (fit on all runs, N* at the target); the first is the one that is shown.
      interval: of the first one's exponent.
      sweeps: IsoFLOP curves.
      hull: the envelope, or None.
      forecast: C -> frontier of the mean of laws, or None.
      target: FLOPs.
      level: of the intervals.
    """
    rows = []
    for i, (name, (fit, N)) in enumerate(fits.items()):
        if "a" in fit.law.exponents:
            rows.append((name, float(fit.law.exponents["a"](fit.params)), *(interval if i == 0 else NO_INTERVAL), N))
    mean = forecast(np.array([target / 1.1, target]))
    if mean is not None and mean.answer:
        near = np.asarray(mean.N, float)
        rows.append(("mean of laws", float(np.log(near[1] / near[0]) / np.log(1.1)), *NO_INTERVAL, float(near[1])))
    isoflop = "IsoFLOP curves" + (" (interpolated)" if sweeps.interpolated else "")
    for name, found in ((isoflop, sweeps.found), ("lowest hull", hull)):
        if found is not None:
            rows.append((name, found.a, *found.interval(level)["a"], float(found.frontier(target).N[0])))
    return pd.DataFrame(rows, columns=["approach", "a", "low", "high", "N"])


def other_laws(
    selection: Selection | None, runs: Runs, settings: Fit, cost: Any, target: float
) -> dict[str, tuple[fitting.Fit, float]]:
    """The candidates that were not chosen, fitted to all runs: law -> (fit, N* at the target).

    Without those that extrapolate `FAR_WORSE` times as badly as the chosen one: their N* says nothing about its own.
    """
    if selection is None:
        return {}
    out, (chosen, *others) = {}, selection.candidates
    limit = FAR_WORSE * max(chosen.score, SMALL_ERROR)
    for candidate in others:
        if candidate.score > limit:
            continue
        try:
            fit = fit_law(runs, settings, law=candidate.name, resample=False).fit
            inputs = frontier_inputs(fit.law, runs, settings)
            out[candidate.name] = fit, float(np.squeeze(fit.frontier(target, cost=cost, inputs=inputs).N))
        except (fitting.FitError, UserError):
            continue
    return out
