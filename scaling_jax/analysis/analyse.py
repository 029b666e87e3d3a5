"""A results table -> one Analysis that everything shown is drawn from."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from scaling_jax import fitting
from scaling_jax.analysis import approaches
from scaling_jax.analysis.cost import Cost, flops_cost
from scaling_jax.analysis.fits import (
    AUTO,
    FRONTIER_COLUMNS,
    PARAM_COLUMNS,
    HoldOut,
    choose_law,
    fit_law,
    frontier,
    hold_out,
    other_laws,
    params_table,
)
from scaling_jax.analysis.gates import Gate, about_frontier, about_runs, gates, plural
from scaling_jax.analysis.isoflop import Sweeps, isoflop_sweeps
from scaling_jax.analysis.runs import Runs, read_runs, y_name
from scaling_jax.errors import UserError

DEFAULTS = {
    "law": "chinchilla", "metric": "loss", "params": "params_matmul", "huber_delta": 1e-3, "bootstrap": 1000,
    "level": 0.9, "target_flops": (), "also": (), "cut": 0.5,
}  # fmt: skip
TARGETS = (10.0, 100.0)
LADDER_ROWS, CURVE_POINTS = 3, 25


@dataclasses.dataclass(frozen=True)
class Analysis:
    """What a study's runs say; the text, the figures, the page and the JSON only show it.

    Attributes:
      name: of the study.
      settings: law, metric, params, huber_delta, bootstrap, level, target_flops, also, cut, as used.
      selection: the ranking that chose the law where the study left it open ("auto"), or None.
      runs: the table, sorted into what is fitted and what is not.
      curves: learning curves as given, or None.
      fit: the law through all chosen runs, or None.
      no_fit: why there is none; "" where there is.
      params: one row per parameter and derived exponent: name, value, low, high.
      hold_out: the blind prediction of the most expensive runs, or None; `no_hold_out` says why.
      cost: what C means beyond the runs; None is 6ND.
      frontier: loss-minimal rows over the ladder's range and at the targets: C, N, D, y, each of the last three with
        _low and _high, and beyond = C / largest C of a run.
      curve: the same, dense, for figures.
      isoflop, envelope: the other approaches; the hull is None where the runs have none.
      approaches: one row per law and approach: approach, a (N* ~ C^a), low, high, N (N* at the largest target).
      gates: checks; `warnings`: what else makes the numbers less sure than they look.
      also: the same of the study's further metrics, by name; they have no `also` of their own.
    """

    name: str
    settings: Mapping[str, Any]
    selection: fitting.Selection | None
    runs: Runs
    curves: pd.DataFrame | None
    fit: fitting.Fit | None
    no_fit: str
    params: pd.DataFrame
    hold_out: HoldOut | None
    no_hold_out: str
    cost: Cost | None
    frontier: pd.DataFrame
    curve: pd.DataFrame
    isoflop: Sweeps
    envelope: fitting.Envelope | None
    approaches: pd.DataFrame
    gates: tuple[Gate, ...]
    warnings: tuple[str, ...]
    also: Mapping[str, Analysis] = dataclasses.field(default_factory=dict)

    @property
    def metric(self) -> str:
        """What y is in a word or two: its column, or what that lacks of 1."""
        return y_name(self.settings["metric"])

    @property
    def unit(self) -> str:
        """What D counts."""
        return "samples" if self.runs.table.get("accuracy", pd.Series()).notna().any() else "tokens"

    @property
    def y_label(self) -> str:
        """y in words."""
        if self.metric != "loss":
            return f"validation {self.metric}" + (" (1 - accuracy)" if self.metric == "error" else "")
        return f"validation loss (nats per {self.unit[:-1]})"

    @property
    def used(self) -> int:
        """How many runs the law went through."""
        return len(self.runs.chosen)

    @property
    def dataset_hash(self) -> str | None:
        """Identity of the corpus that all finished runs share."""
        return None if self.runs.chosen.empty else str(self.runs.chosen.dataset_hash.iloc[0])

    @property
    def cost_note(self) -> str:
        """What C counts on the frontier."""
        return f"C is {self.cost}" if self.cost is not None else f"C = 6ND with N = {self.settings['params']}"


def analyse(table: pd.DataFrame, curves: pd.DataFrame | None, settings: Mapping[str, Any]) -> Analysis:
    """Gates the runs, fits the law, predicts the held-out runs, draws the frontier and asks the other approaches.

    Args:
      table: the results table, one row per run; only status "done" enters a fit.
      curves: run_id, step, tokens, flops, loss, phase; or None.
      settings: "name", "fit" and "hold_out" as in `Study.to_dict()`; what is missing has its default.

    Returns:
      An `Analysis`. Where there are too few runs for the law it has no fit and says why.

    Raises:
      UserError: the table has no rows, lacks columns, mixes corpora or holds numbers that cannot be, or the settings
        name an unknown law or metric.
    """
    settings_used = DEFAULTS | dict(settings.get("fit", {})) | dict(settings.get("hold_out", {}))
    try:
        if settings_used["law"] != AUTO:
            fitting.laws[settings_used["law"]]
    except fitting.FitError as error:
        raise UserError(f"fit.law: {error}") from error
    runs = read_runs(table, settings_used["metric"], settings_used["params"])
    name = str(settings.get("name", "study"))
    also, not_fitted = {}, []
    for metric in dict.fromkeys(settings_used["also"]):
        try:
            further = read_runs(table, metric, settings_used["params"])
        except UserError as error:  # no reason to withhold the rest
            not_fitted.append(f"{metric} is not fitted: {error}")
            continue
        also[metric] = _analyse(name, settings_used | {"metric": metric, "also": ()}, further, None)
    found = _analyse(name, settings_used, runs, curves)
    return dataclasses.replace(found, also=also, warnings=(*not_fitted, *found.warnings))


def _analyse(name: str, settings: dict, runs: Runs, curves: pd.DataFrame | None) -> Analysis:
    chosen = runs.chosen
    selection, no_selection = None, ""
    if settings["law"] == AUTO:
        law, selection, no_selection = choose_law(chosen, settings, runs.repeated is not None)
        settings = settings | {"law": law}
    fit, no_fit = None, ""
    try:
        fit = fit_law(chosen, settings)
    except fitting.FitError as error:
        no_fit = f"{plural(len(chosen), 'finished run')}: {error}"
    found, no_hold_out = (None, "no law was fitted") if fit is None else hold_out(chosen, settings)
    cost = flops_cost(chosen)
    params = pd.DataFrame(columns=PARAM_COLUMNS) if fit is None else params_table(fit, settings)
    table, curve, doubts = _frontiers(fit, chosen, cost, settings)
    sweeps, hull = isoflop_sweeps(chosen, runs.noise), approaches.envelope(chosen)
    beside, apart = pd.DataFrame(), []
    if len(table):
        target, own = float(table.C.iloc[-1]), params.set_index("name")
        laws = {settings["law"]: (fit, float(table.N.iloc[-1]))} | other_laws(chosen, selection, target, cost, settings)
        interval = (own.low.get("a", np.nan), own.high.get("a", np.nan))
        beside = approaches.side_by_side(laws, interval, sweeps, hull, target, settings["level"])
        apart = approaches.disagreement(beside, target)
    warnings = [*(fit.warnings if fit is not None else ()), *([no_selection] if no_selection else []), *doubts]
    warnings += about_frontier(runs, table) + apart + about_runs(runs, fit)
    warnings += [f"IsoFLOP: {said}" for said in (sweeps.found.warnings if sweeps.found is not None else ())]
    return Analysis(
        name=name,
        settings=settings,
        selection=selection,
        runs=runs,
        curves=curves,
        fit=fit,
        no_fit=no_fit,
        params=params,
        hold_out=found,
        no_hold_out=no_hold_out,
        cost=cost,
        frontier=table,
        curve=curve,
        isoflop=sweeps,
        envelope=hull,
        approaches=beside,
        gates=gates(runs, fit, found, no_hold_out),
        warnings=tuple(warnings),
    )


def _frontiers(fit, chosen: pd.DataFrame, cost: Cost | None, settings: dict):
    """(rows to read, dense rows to draw, what is doubtful or why there are none)."""
    none = pd.DataFrame(columns=FRONTIER_COLUMNS)
    if fit is None:
        return none, none, []
    smallest, largest = chosen.C.min(), chosen.C.max()
    targets = settings["target_flops"] or [factor * largest for factor in TARGETS]
    rows = np.unique([*np.geomspace(smallest, largest, LADDER_ROWS), *targets])
    dense = np.unique([*np.geomspace(rows[0], rows[-1], CURVE_POINTS), *rows])
    try:
        curve, warnings = frontier(fit, dense, cost, chosen, settings)
    except fitting.FitError as error:
        return none, none, [f"no frontier: {error}"]
    return curve[np.isin(dense, rows)].reset_index(drop=True), curve, warnings
