"""The most expensive runs predicted by a fit that has not seen them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from scaling_jax import fitting
from scaling_jax.analysis.fits import Fitted, fit_law, frontier_inputs, law_inputs
from scaling_jax.analysis.frames import log
from scaling_jax.analysis.runs import Runs, same_budget
from scaling_jax.fitting.rows import evenly
from scaling_jax.fitting.sensitivity import REFIT_ROWS
from scaling_jax.study import Fit as Settings
from scaling_jax.study import HoldOut as Cut
from scaling_jax.text import plural

# Budgets are rounded to whole steps: one meant to be exactly at the cut may be slightly below it.
ROUNDING = 0.99
FEWEST_LEFT_OUT, MAX_LEFT_OUT, MANY_SCALES = 4, 8, 200  # scales that are left out in turn


@dataclasses.dataclass(frozen=True)
class HoldOut:
    """A fit on the cheaper runs against the most expensive ones.

    Attributes:
      cut: FLOPs (or the law's single input) from which runs are held out.
      fitted: the law through the runs below it.
      rows: one row per held-out run, in order of C: run_id, scale, seed, N, D, C, y, predicted, low, high (interval
        of the law's mean), error = y / predicted - 1.
      inputs: the law's inputs of these rows.
      rmsle: root mean square of ln(y / predicted), y averaged over seeds: their scatter is not an error of the law.
      bias: mean of ln(y / predicted); positive where the runs are worse than predicted.
      worst: the error of largest size, with its sign, of a mean over seeds.
      naive: root mean square of ln(y / y of a power law in N and D without a floor) on the same runs; nan without N, D.
    """

    cut: float
    fitted: Fitted
    rows: pd.DataFrame
    inputs: Mapping[str, np.ndarray]
    rmsle: float
    bias: float
    worst: float
    naive: float


def below_cut(runs: Runs, cut: Cut, law: fitting.Law | None = None) -> tuple[np.ndarray, float]:
    """((n,) chosen runs that are not held out, the cut)."""
    size = sizes(runs, law)
    at = float(cut.flops) if cut.flops is not None else float(cut.cut * size.max())
    return size < at * (ROUNDING if cut.flops is None else 1.0), at


def sizes(runs: Runs, law: fitting.Law | None) -> np.ndarray:
    """(n,) what makes a chosen run large: FLOPs, else the single input of the law."""
    if runs.has_compute and (law is None or "x" not in law.inputs):
        return runs.chosen["C"].to_numpy(float)
    inputs = list(runs.inputs.values())
    return inputs[0] if len(inputs) == 1 else runs.chosen["C"].to_numpy(float)


def hold_out(runs: Runs, settings: Settings, cut: Cut) -> tuple[HoldOut | None, str]:
    """Fits the runs below the cut and predicts the others; or None and why not.

    Raises:
      FitError: an explicit cut leaves nothing on one side.
    """
    law = fitting.laws[settings.law]
    below, at = below_cut(runs, cut, law)
    size = sizes(runs, law)
    if cut.flops is not None and (below.all() or not below.any()):
        side = "below" if below.all() else "above"
        raise fitting.FitError(
            f"all {len(below)} points are {side} cut={at:g} (they run from {size.min():.3g} to {size.max():.3g}): "
            "choose a cut between them"
        )
    if not below.any() or below.all() or not np.isfinite(at):
        return None, f"{plural(int(below.sum()), 'run')} of {len(below)} are below the cut of {at:.3g}"
    order = _in_order(runs.chosen[~below], size[~below])
    held = np.flatnonzero(~below)[order]
    try:
        fitted = fit_law(runs, settings, rows=np.flatnonzero(below))
        inputs = law_inputs(law, runs, held)
        value, low, high = fitted.predict(inputs, settings.level)
    except fitting.FitError as error:
        return (
            None,
            f"the {int(below.sum())} of {len(below)} runs below {at:.3g} FLOPs cannot predict the others: {error}",
        )
    rows = runs.chosen.iloc[held][["run_id", "scale", "seed", "N", "D", "C", "y"]].reset_index(drop=True)
    rows = rows.assign(predicted=value, low=low, high=high, error=rows.y.to_numpy() / value - 1)
    if not (value > 0).all() or not (rows.y > 0).all():
        return None, "the hold-out fit predicts values that are not positive"
    cells = log(rows.y / rows.predicted).groupby([rows.scale, rows.D], dropna=False).mean()
    errors = np.expm1(cells.to_numpy(float))
    naive = _naive(runs, below, held)
    found = HoldOut(
        cut=at,
        fitted=fitted,
        rows=rows,
        inputs=inputs,
        rmsle=float(np.sqrt(np.mean(cells**2))),
        bias=float(cells.mean()),
        worst=float(errors[np.abs(errors).argmax()]),
        naive=naive,
    )
    return found, ""


def without_each_scale(runs: Runs, settings: Settings, fit: fitting.Fit, target: float, cost: Any) -> dict[str, float]:
    """Scale -> N* at a target with that scale left out of the fit; nan where it is then undetermined.

    Of more than `MAX_LEFT_OUT` scales so many are left out in turn, the ends among them, which matter most. Empty where
    there are too few scales, or so many that no one of them can matter.
    """
    if not FEWEST_LEFT_OUT <= len(runs.scales) <= MANY_SCALES:
        return {}
    scales, out = runs.scales.scale, {}
    for scale in scales.iloc[evenly(len(scales), MAX_LEFT_OUT)]:
        rows = np.flatnonzero(runs.chosen.scale.to_numpy() != scale)
        rows = rows[evenly(len(rows), REFIT_ROWS)]
        try:
            found = fit_law(runs, settings, rows=rows, resample=False, near=fit).fit
            inputs = frontier_inputs(found.law, runs, settings)
            N = float(np.squeeze(found.frontier(target, cost=cost, inputs=inputs).N))
            out[scale] = N if 0 < N < np.inf else np.nan
        except fitting.FitError:
            out[scale] = np.nan
    return out


def _in_order(held: pd.DataFrame, size: np.ndarray) -> np.ndarray:
    """Positions by budget, and within one (equal but for rounding to whole steps) by N."""
    budget = same_budget(pd.Series(size))
    return np.lexsort([held.N.to_numpy(float), budget.to_numpy()])


def _naive(runs: Runs, below: np.ndarray, held: np.ndarray) -> float:
    if not runs.has_compute:
        return float("nan")
    logs = np.column_stack([np.ones(len(below)), np.log(runs.chosen.N), np.log(runs.chosen.D)])
    y = np.log(runs.chosen.y.to_numpy(float))
    coefficients, *_ = np.linalg.lstsq(logs[below], y[below], rcond=None)
    errors = pd.Series(y[held] - logs[held] @ coefficients)
    chosen = runs.chosen.iloc[held].reset_index(drop=True)
    cells = errors.groupby([chosen.scale, chosen.D]).mean()
    return float(np.sqrt(np.mean(cells**2)))
