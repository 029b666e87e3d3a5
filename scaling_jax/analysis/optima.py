"""The best run of each budget: the law's N* and D*, the loss that the forecast expects there, and intervals."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from scaling_jax import fitting
from scaling_jax.analysis.fits import Fitted, has_frontier

COLUMNS = ("C", "N", "D", "loss", "N_low", "N_high", "D_low", "D_high", "loss_low", "loss_high", "law_loss")


class Best(NamedTuple):
    """The best runs of some budgets.

    Attributes:
      rows: one per budget, with `COLUMNS`; C is in the unit of the cost, law_loss is the law's own.
      reasons: why the forecast gives no interval; then the rows are those of the law alone.
      doubts: what is doubtful about the law's own, in sentences.
    """

    rows: pd.DataFrame
    reasons: tuple[str, ...]
    doubts: tuple[str, ...]


def best_runs(
    fitted: Fitted,
    C: np.ndarray,
    *,
    forecast: fitting.Forecast | None,
    found: Any,
    cost: Callable | None,
    inputs: Mapping | None,
    level: float,
    max_N: float | None = None,
) -> Best:
    """The one answer that headline, frontier and recommendation show.

    Args:
      fitted: the law that chooses N* and D*; where it has no frontier the forecast does.
      C: (c,) budgets in the unit of the cost.
      forecast: of the same runs, or None.
      found: its `MixedFrontier` at the first of the budgets (the others have no interval of N and D), or None.
      cost: cost(N, D); None for 6ND.
      inputs: of the law besides N and D.
      level: of the intervals.
      max_N: cap on N.

    Raises:
      FitError: the law has no frontier, and there is no forecast; or the cap leaves nothing.
    """
    answered = forecast is not None and found is not None and found.answer
    doubts: tuple[str, ...] = ()
    if found is not None and answered and not has_frontier(fitted.fit.law):
        rows = pd.DataFrame({"C": C, "N": found.N, "D": found.D})
    else:
        own = fitted.frontier(C, None if answered else level, cost, inputs, max_N)
        rows, doubts = pd.DataFrame({"C": C, "N": own.N, "D": own.D, "loss": own.loss}), tuple(own.warnings)
        rows["law_loss"] = own.loss
        for name in ("N", "D", "loss"):
            ends = (np.full(C.shape, np.nan),) * 2 if own.interval is None else own.interval[name]
            rows[f"{name}_low"], rows[f"{name}_high"] = ends
    reasons = ()
    if answered:
        rows = _with_forecast(rows, forecast, found)
    elif found is not None:
        reasons = tuple(found.reasons)
    return Best(rows.reindex(columns=list(COLUMNS)), reasons, doubts)


def forecast_runs(forecast: fitting.Forecast, N: Any, D: Any) -> Any:
    """`forecast.predict` without its warning of far inputs: how far it is stands beside every answer."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", fitting.FitWarning)
        return forecast.predict({"N": N, "D": D})


def _with_forecast(rows: pd.DataFrame, forecast: Any, found: Any) -> pd.DataFrame:
    """The loss of a run at N and D as the forecast has it; its intervals of N* and D*, extended to the law's own."""
    N, D = (rows[name].to_numpy(float) for name in ("N", "D"))
    if not (np.isfinite(N) & np.isfinite(D) & (N > 0) & (D > 0)).all():
        return rows
    run, known = forecast_runs(forecast, N, D), np.size(found.C)
    columns = {"loss": run.value, "loss_low": run.low, "loss_high": run.high}
    for name, value in (("N", N), ("D", D)):
        low, high = np.full(len(rows), np.nan), np.full(len(rows), np.nan)
        low[:known] = np.minimum(found.interval[name][0], value[:known])
        high[:known] = np.maximum(found.interval[name][1], value[:known])
        columns |= {f"{name}_low": low, f"{name}_high": high}
    return rows.assign(**columns)
