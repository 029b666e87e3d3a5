"""The law fitted to the runs: what it predicts of the held-out ones, and the frontier it draws."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from scaling_jax import fitting
from scaling_jax.analysis.cost import Cost

FRONTIER_COLUMNS = ("C", "N", "D", "y", "N_low", "N_high", "D_low", "D_high", "y_low", "y_high", "beyond")
PARAM_COLUMNS = ("name", "value", "low", "high")
AUTO = "auto"
# Laws of N and D alone that a ladder of a few dozen runs can carry (Farseer's nine parameters it cannot).
CANDIDATES = ("chinchilla", "chinchilla_outer", "kaplan")
FOR_REPEATED = "data_constrained"  # a candidate beside them where runs see data again
EARNS_ITS_PARAMETERS = 0.9  # of the next best error; as good as a law that it contains is no reason to take it
# Budgets are rounded to whole steps: one meant to be exactly at the cut may lie a little below it.
ROUNDING = 0.99


@dataclasses.dataclass(frozen=True)
class HoldOut:
    """What a fit on the cheaper runs says of the most expensive ones.

    Attributes:
      cut: FLOPs from which runs are held out.
      fit: the law fitted to the runs below it.
      rows: one row per held-out run, in order of C: run_id, scale, seed, N, D, C, y, predicted, low, high (interval
        of the prediction), error = predicted / y - 1.
      inputs: the law's inputs of these rows.
      rmsle: root mean square of ln(predicted / y), y averaged over seeds: how they scatter is no fault of the law.
      bias: mean of ln(predicted / y); positive predicts too much.
      worst: the error of largest size, with its sign, of a mean over seeds.
    """

    cut: float
    fit: fitting.Fit
    rows: pd.DataFrame
    inputs: Mapping[str, np.ndarray]
    rmsle: float
    bias: float
    worst: float


def law_inputs(law: fitting.Law, runs: pd.DataFrame) -> dict[str, np.ndarray]:
    """The law's inputs from the runs: N, D, x = C, what follows from N and D, or the column of that name.

    Raises:
      FitError: an input that the runs do not hold.
    """
    columns = {name: runs[name] for name in runs.columns} | {"x": runs.C}
    if law.from_nd is not None:
        columns |= law.from_nd({"N": runs.N, "D": runs.D})
    missing = [name for name in law.inputs if name not in columns]
    if missing:
        raise fitting.FitError(f"law {law.name!r} reads {missing[0]!r}, which the results table does not have")
    return {name: columns[name].to_numpy(float) for name in law.inputs}


def fit_law(runs: pd.DataFrame, settings: Mapping[str, Any]) -> fitting.Fit:
    """The law through the runs' y, bootstrapped by whole trunks: the branches off one are not independent.

    Raises:
      FitError: too few or too uniform runs for this law.
    """
    law = fitting.laws[settings["law"]]
    objective = fitting.Huber(settings["huber_delta"])
    fit = fitting.fit(law, law_inputs(law, runs), runs.y.to_numpy(), objective=objective, clusters=runs.trunk)
    if settings["bootstrap"] >= 2:
        fit = fit.with_bootstrap(fit.bootstrap(settings["bootstrap"]))
    return fit


def choose_law(
    runs: pd.DataFrame, settings: Mapping[str, Any], repeated: bool
) -> tuple[str, fitting.Selection | None, str]:
    """The candidate that extrapolates best within the runs below the hold-out cut, which alone are looked at.

    Args:
      runs: chosen.
      settings: of the analysis.
      repeated: whether runs see data again.

    Returns:
      (name, the ranking, ""), or (the first candidate, None, why there is no ranking).
    """
    seen = runs[runs["C"] < settings["cut"] * runs["C"].max() * ROUNDING]
    candidates = (*CANDIDATES, FOR_REPEATED) if repeated and "U" in seen else CANDIDATES
    columns = {name: seen[name].to_numpy() for name in ("N", "D", "U") if name in seen}
    try:
        ranking = fitting.select(
            candidates,
            columns,
            seen.y.to_numpy(),
            C=seen["C"].to_numpy(),
            objective=fitting.Huber(settings["huber_delta"]),
        )
    except fitting.FitError as error:
        return CANDIDATES[0], None, f"the law is {CANDIDATES[0]}, since none could be chosen: {error}"
    best, *others = ranking.candidates
    if best.name == FOR_REPEATED and others and best.score > EARNS_ITS_PARAMETERS * others[0].score:
        ranking = dataclasses.replace(ranking, candidates=[others[0], best, *others[1:]])
    return ranking.candidates[0].name, ranking, ""


def other_laws(runs, ranking, C: float, cost: Cost | None, settings) -> dict[str, tuple[fitting.Fit, float]]:
    """The candidates that were not chosen, fitted to all runs: law -> (fit, N* at C)."""
    out = {}
    for candidate in ranking.candidates[1:] if ranking is not None else ():
        try:
            fit = fit_law(runs, {**settings, "law": candidate.name, "bootstrap": 0})
            out[candidate.name] = fit, float(fit.frontier(C, cost=cost, inputs=data_at_hand(fit, runs)).N)
        except fitting.FitError:
            continue
    return out


def hold_out(runs: pd.DataFrame, settings: Mapping[str, Any]) -> tuple[HoldOut | None, str]:
    """Fits the runs below `cut` x the largest FLOPs and predicts the others; or None and why not."""
    cut = settings["cut"] * runs.C.max()
    seen = runs[runs["C"] < cut * ROUNDING]
    held = runs.drop(seen.index)
    # Runs of one budget, equal but for rounding to whole steps, stand in order of N.
    held = held.assign(budget=np.log(held["C"]).round(2)).sort_values(["budget", "N"]).reset_index(drop=True)
    try:
        fit = fit_law(seen, settings)
        inputs = law_inputs(fit.law, held)
        value, low, high = predict(fit, inputs, settings)
    except fitting.FitError as error:
        return None, f"the {len(seen)} of {len(runs)} runs below {cut:.3g} FLOPs cannot predict the others: {error}"
    rows = held[["run_id", "scale", "seed", "N", "D", "C", "y"]]
    rows = rows.assign(predicted=value, low=low, high=high, error=value / held.y - 1)
    log_error = np.log(value / held.y).groupby([held.scale, held.D]).mean()
    found = HoldOut(
        cut=float(cut),
        fit=fit,
        rows=rows,
        inputs=inputs,
        rmsle=float(np.sqrt(np.mean(log_error**2))),
        bias=float(log_error.mean()),
        worst=float(np.expm1(log_error[np.expm1(log_error).abs().idxmax()])),
    )
    return found, ""


def predict(fit: fitting.Fit, inputs: Mapping[str, np.ndarray], settings: Mapping[str, Any]):
    """(value, low, high), each (n,); the ends are nan without a bootstrap."""
    if settings["bootstrap"] < 2:
        value = fit.predict(inputs)
        return value, np.full_like(value, np.nan), np.full_like(value, np.nan)
    value, (low, high) = fit.predict(inputs, level=settings["level"])
    return value, low, high


def params_table(fit: fitting.Fit, settings: Mapping[str, Any]) -> pd.DataFrame:
    """Parameters and derived exponents: name, value, low, high; the ends are nan without a bootstrap."""
    values = dict(fit.params) | {k: v for k, v in fit.exponents.items() if k not in fit.params}
    ends = fit.interval(settings["level"]) if settings["bootstrap"] >= 2 else {}
    rows = [(name, value, *ends.get(name, (np.nan, np.nan))) for name, value in values.items()]
    return pd.DataFrame(rows, columns=PARAM_COLUMNS)


def data_at_hand(fit: fitting.Fit, runs: pd.DataFrame) -> dict[str, float] | None:
    """What the law reads besides N and D when compute grows and the data do not: the most unique tokens of a run."""
    return {"U": float(runs.U.max())} if "U" in fit.law.inputs else None


def frontier(
    fit: fitting.Fit, C: Sequence[float], cost: Cost | None, runs: pd.DataFrame, settings: Mapping[str, Any]
) -> tuple[pd.DataFrame, list[str]]:
    """Loss-minimal N, D and y at each C with their intervals, `FRONTIER_COLUMNS`, and what is doubtful about them.

    Raises:
      FitError: the law has no frontier.
    """
    C = np.asarray(C, float)
    level = settings["level"] if settings["bootstrap"] >= 2 else None
    found = fit.frontier(C, cost=cost, level=level, inputs=data_at_hand(fit, runs))
    columns = {"C": C, "N": found.N, "D": found.D, "y": found.loss}
    for name, key in (("N", "N"), ("D", "D"), ("y", "loss")):
        low, high = (np.full(C.shape, np.nan),) * 2 if level is None else found.interval[key]
        columns |= {f"{name}_low": low, f"{name}_high": high}
    return pd.DataFrame(columns | {"beyond": C / runs.C.max()})[list(FRONTIER_COLUMNS)], list(found.warnings)
