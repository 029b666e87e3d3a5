"""A table of runs -> an Analysis."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import pandas as pd

from scaling_jax import fitting
from scaling_jax.analysis.analysis import Analysis
from scaling_jax.analysis.columns import Columns, as_frame
from scaling_jax.analysis.fits import choose_law, fit_law, parse_inputs
from scaling_jax.analysis.hold_out import below_cut
from scaling_jax.analysis.read import is_ours, read_runs
from scaling_jax.analysis.runs import Runs
from scaling_jax.errors import UserError
from scaling_jax.study import AUTO_LAW, Fit, Study
from scaling_jax.study import HoldOut as Cut
from scaling_jax.text import plural


def analyse(
    table: Any,
    curves: pd.DataFrame | None = None,
    *,
    study: Study | None = None,
    fit: Fit | None = None,
    hold_out: Cut | None = None,
    columns: Mapping[str, str] | Columns | None = None,
    name: str | None = None,
) -> Analysis:
    """Fits the law, predicts held-out runs, draws the frontier, checks what can be checked and reaches a verdict.

    Args:
      table: one row per run: one of our results tables, or any DataFrame with sizes, tokens and losses.
      curves: run_id, step, tokens, flops, loss, phase; or None.
      study: its name, fit and hold-out settings are used where the following are not given.
      fit: settings of the fit.
      hold_out: which runs are held out.
      columns: where N, D, C, y and the law's other inputs are, e.g. {"N": "params*1e6"}; or `Columns`.
      name: of what is analyzed.

    Returns:
      An `Analysis`. Where there are too few runs for the law it has no fit and says why.

    Raises:
      UserError: the table has no rows, lacks columns, mixes corpora or holds impossible numbers, or the settings name
        an unknown law, metric or parameter.
    """
    _check_settings(fit, hold_out, columns)
    settings = fit or (study.fit if study is not None else Fit())
    cut = hold_out or (study.hold_out if study is not None else Cut())
    options = columns if isinstance(columns, Columns) else Columns(names=dict(columns or {}))
    settings, options = _metric_by_column(table, settings, options)
    title = name or (study.name if study is not None else "runs")
    law = None
    if settings.law != AUTO_LAW:
        try:
            law = fitting.laws[settings.law]
        except fitting.FitError as error:
            raise UserError(f"fit.law: {error}") from error
        parse_inputs(law, settings.inputs)
    runs = read_runs(table, law, settings, options)
    if runs.simulated:
        title += f" (SIMULATED from {runs.simulated})"
    also, not_fitted = {}, []
    for metric in dict.fromkeys(settings.also):
        other = dataclasses.replace(settings, metric=metric, also=())
        try:
            further = read_runs(table, law, other, _without_y(options))
        except UserError as error:  # the other metrics are fitted all the same
            not_fitted.append(f"{metric} is not fitted: {error}")
            continue
        also[metric] = _analysis(title, other, cut, further, None)
    found = _analysis(title, settings, cut, runs, curves)
    return dataclasses.replace(found, also=also, notes=(*not_fitted, *found.notes))


def _metric_by_column(table: Any, settings: Fit, options: Columns) -> tuple[Fit, Columns]:
    """A column of our own results table that is given for y is the metric."""
    y, frame = options.names.get("y"), as_frame(table)
    if y is None or y not in frame or not is_ours(frame):
        return settings, options
    return dataclasses.replace(settings, metric=y), _without_y(options)


def _without_y(options: Columns) -> Columns:
    return dataclasses.replace(options, names={name: text for name, text in options.names.items() if name != "y"})


def _check_settings(fit: Any, hold_out: Any, columns: Any) -> None:
    if not isinstance(fit, Fit | None):
        raise UserError(f"fit={fit!r}: give scaling_jax.study.Fit, e.g. Fit(law='chinchilla')")
    if not isinstance(hold_out, Cut | None):
        raise UserError(f"hold_out={hold_out!r}: give scaling_jax.study.HoldOut, e.g. HoldOut(cut=0.5)")
    if isinstance(columns, Columns | None):
        return
    if not (isinstance(columns, Mapping) and all(isinstance(v, str) for pair in columns.items() for v in pair)):
        raise UserError(f"columns={columns!r}: give a dict of names, e.g. {{'N': 'params*1e6'}}")


def _analysis(name: str, settings: Fit, cut: Cut, runs: Runs, curves: pd.DataFrame | None) -> Analysis:
    selection, notes = None, list(runs.notes)
    if settings.law == AUTO_LAW:
        below, _ = below_cut(runs, cut)
        law, selection, why = choose_law(runs, settings, below)
        settings = dataclasses.replace(settings, law=law)
        notes += [why] if why else []
    fitted, no_fit = None, ""
    try:
        fitted = fit_law(runs, settings)
    except fitting.FitError as error:
        if settings.fixed and "no parameter" in str(error):
            raise UserError(f"fit.fixed: {error}") from error
        count = plural(len(runs.chosen), "finished run")
        no_fit = f"{count}: {error}" if len(runs.chosen) else f"no finished run has its {settings.metric}"
    return Analysis(
        name=name, settings=settings, cut=cut, runs=runs, curves=curves, selection=selection, fitted=fitted,
        no_fit=no_fit, notes=tuple(notes),
    )  # fmt: skip
