"""The charts of an Analysis: loss against compute, IsoFLOP curves, the best split of compute; the catalog of all."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Collection
from typing import Any

import numpy as np
import pandas as pd

from scaling_jax.analysis import Analysis
from scaling_jax.analysis.frames import groups_of, rows_of
from scaling_jax.charts import AVOIDED, GREY, Axis, Chart, Mark, Panel, scale_color
from scaling_jax.fitting import plots
from scaling_jax.fitting.rows import evenly
from scaling_jax.report import figures_of_laws, figures_of_runs
from scaling_jax.report.points import answers, count_label, points_of
from scaling_jax.text import short, times

WITHIN_REACH = 1.01  # times the largest run: targets below are not called extrapolation
LADDER_MARGIN = 0.9999
MAX_LINES, MAX_HELD = 200, 400  # scales with a line, and held-out runs with their prediction: more hide each other
OF_EACH_METRIC = ("frontier", "n_and_d")
OF_A_FIT = ("frontier", "isoflop", "law", "allocation", "n_and_d", "residuals")  # drawn beside a fit.json


def catalog(analysis: Analysis) -> dict[str, Callable[[], Chart]]:
    """Name -> its chart, in the order in which they are read; what the runs do not allow is left out."""
    out: dict[str, Callable[[Analysis], Chart]] = {}
    runs, fit, compute = analysis.runs, analysis.fit, analysis.runs.has_compute
    if compute:
        out["frontier"] = frontier
    if len(analysis.isoflop.points):
        out["isoflop"] = isoflop
    if fit is not None and len(fit.law.inputs) == 1:
        out["law"] = figures_of_laws.law
    if len(analysis.frontier) and answers(analysis):
        out["allocation"] = allocation
        out["approaches"] = figures_of_laws.approaches
    if figures_of_laws.has_parts(analysis):
        out["interval"] = figures_of_laws.interval
    if fit is not None and compute and plots.is_of_nd(fit):
        out["surface"] = figures_of_laws.surface
        out["n_and_d"] = figures_of_laws.slices
    if fit is not None:
        out["residuals"] = figures_of_laws.residuals
    if analysis.fitted is not None and analysis.fitted.bootstrap is not None:
        out["parameters"] = figures_of_laws.parameters
    if compute and figures_of_runs.has_curves(analysis):
        out["learning_curves"] = figures_of_runs.learning_curves
    if figures_of_runs.has_sweeps(analysis):
        out["sweeps"] = figures_of_runs.sweeps
    if compute and figures_of_runs.has_times(runs.table):
        out["cost"] = figures_of_runs.cost
    return {name: functools.partial(_noted, make, analysis) for name, make in out.items()}


def _noted(make: Callable[[Analysis], Chart], analysis: Analysis) -> Chart:
    """The chart, which says so where a law made the losses."""
    source = analysis.runs.simulated
    return dataclasses.replace(make(analysis), note=f"SIMULATED from {source}" if source else "")


def charts(analysis: Analysis, names: Collection[str] | None = None) -> dict[str, Chart]:
    """File stem -> every chart (or those of `names`) that the runs allow, those of further metrics last."""
    found = {name: make() for name, make in catalog(analysis).items() if names is None or name in names}
    for metric, other in analysis.also.items():
        known = catalog(other)
        found |= {f"{metric}_{name}": known[name]() for name in OF_EACH_METRIC if name in known}
    return found


NAMES = (
    "frontier", "isoflop", "law", "allocation", "approaches", "interval", "surface", "n_and_d", "residuals",
    "parameters", "learning_curves", "sweeps", "cost", "loss_vs_compute",
)  # fmt: skip


def is_name(stem: str) -> bool:
    """Returns True for a file stem that a report may have drawn."""
    return stem in NAMES or stem.endswith(tuple(f"_{name}" for name in (*OF_EACH_METRIC, "vs_compute")))


def frontier(analysis: Analysis) -> Chart:
    """Every finished run by compute and loss, the frontier out to the targets, and the predictions of held-out runs."""
    runs, points = analysis.runs, points_of(analysis)
    marks: list[Mark] = []
    curve = analysis.curve if answers(analysis) else analysis.curve[:0]
    if len(curve):
        level = f"{analysis.settings.level:.0%} interval"
        marks.append(Mark("band", curve.C, low=curve.loss_low, high=curve.loss_high, name=level))
    style: dict[str, Any]
    for scale, line in _lines(runs.chosen):
        style = {"color": points.color(scale), "scale": points.shown(scale)}
        marks.append(Mark("line", line.C, line.y, width=1.1, **style))
    if analysis.hold_out is not None:
        rows = analysis.hold_out.rows
        rows = rows.iloc[evenly(len(rows), MAX_HELD)]
        name = "prediction of held-out runs"
        shown = rows.scale.map(points.shown)
        held = [(s, of_scale) for s in points.order if len(of_scale := rows[shown == s])]
        style = {"color": AVOIDED}
        marks += [Mark("span", r.C, low=r.low, high=r.high, scale=s, width=1.2, **style) for s, r in held]
        marks += [Mark("points", r.C, r.predicted, symbol="tick", size=8, scale=s, **style) for s, r in held]
        marks.append(Mark("points", [], [], name=name, color=AVOIDED, symbol="tick"))
    marks += points.marks(runs.chosen.C, runs.chosen.y)
    for i, (part, dash) in enumerate(inside_and_beyond(curve, float(runs.chosen.C.max()))):
        name = "frontier L*(C), dashed beyond the runs" if i == 0 else ""
        marks.append(Mark("line", part.C, part.loss, dash=dash, width=1.9, name=name))
    for row in rows_of(analysis.frontier[analysis.frontier.beyond > WITHIN_REACH]) if len(curve) else ():
        label = f"{times(row.beyond)}x: N* {short(row.N)}, D* {short(row.D)}, {analysis.metric} {row.loss:.4g}"
        marks.append(Mark("points", [row.C], [row.loss], symbol="star", size=12, name=label, texts=[label]))
    log = bool((runs.chosen.y > 0).all())
    panel = Panel(Axis("training FLOPs", "flops", True), Axis(analysis.y_label, log=log), tuple(marks))
    caption = "Each line is a scale, each dot a run."
    if len(curve):
        caption += " The thick line is the fitted frontier, dashed beyond the runs."
    if analysis.hold_out is not None:
        caption += " Diamonds are held-out runs, red ticks their prediction by a fit that has not seen them, with"
        caption += f" the {analysis.settings.level:.0%} interval of its mean."
    title = analysis.metric[:1].upper() + analysis.metric[1:]
    return Chart("frontier", f"{title} against compute", caption, (panel,))


def _lines(chosen: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """(scale, its loss by compute) in order of N, seeds averaged; none where there are too many to tell apart."""
    if chosen.scale.nunique() > MAX_LINES or len(chosen) > MAX_LINES**2 / 2:
        return []
    by_scale = {scale: rows for (scale,), rows in groups_of(chosen.sort_values("N", kind="stable"), ["scale"])}
    return [(s, r.groupby("D", as_index=False)[["C", "y"]].mean().sort_values("C")) for s, r in by_scale.items()]


def isoflop(analysis: Analysis) -> Chart:
    """Loss against N at equal compute with its optima, and (dotted) what the law says of the same budgets."""
    from scipy.interpolate import Akima1DInterpolator  # takes long to import, and training needs none of it

    sweeps, marks, stars = analysis.isoflop, [], []
    budgets = sorted(sweeps.points.budget.unique())
    optima = {} if sweeps.found is None else {float(o.C): o for o in sweeps.found.optima}
    for i, budget in enumerate(budgets):
        rows = sweeps.points[sweeps.points.budget == budget].sort_values("N")
        color = scale_color(i, len(budgets))
        grid = np.geomspace(rows.N.iloc[0], rows.N.iloc[-1], 60)
        curve = Akima1DInterpolator(np.log(rows.N), np.log(rows.y))(np.log(np.clip(grid, grid[0], rows.N.iloc[-1])))
        name = f"{budget:.2e} FLOPs"
        if analysis.fit is not None and analysis.fit.law.inputs == ("N", "D"):
            per_token = np.exp(np.interp(np.log(grid), np.log(rows.N), np.log(budget / rows.D)))
            value = analysis.fit.predict({"N": grid, "D": budget / per_token})
            marks.append(Mark("line", grid, value, color=color, width=1.0, dash="dot"))
        marks.append(Mark("line", grid, np.exp(curve), color=color, width=1.3, name=name))
        texts = [f"{s}, N {short(n)}, {name}" for s, n in zip(rows.scale, rows.N)]
        symbol = "open" if sweeps.interpolated else "circle"
        marks.append(Mark("points", rows.N, rows.y, color=color, symbol=symbol, texts=texts))
        if budget in optima:
            best = optima[budget]
            text = f"lowest at {name}: N {short(best.N)}, {analysis.metric} {best.loss:.4g}"
            stars.append(Mark("points", [best.N], [best.loss], color=color, symbol="star", size=13, texts=[text]))
    if stars:
        stars.append(Mark("points", [], [], color=GREY, symbol="star", size=13, name="lowest"))
    if analysis.fit is not None:
        stars.append(Mark("line", [], [], color=GREY, dash="dot", name=f"the law ({analysis.settings.law})"))
    panel = Panel(Axis(count_label(analysis), "count", True), Axis(analysis.y_label, log=True), (*marks, *stars))
    caption = "Loss against size at equal compute; stars are the optima, dotted lines the law."
    if sweeps.interpolated:
        caption += " Open dots are read between a scale's own budgets."
    if sweeps.why:
        caption += f" No exponent: {sweeps.why}."
    return Chart("isoflop", "IsoFLOP curves", caption, (panel,))


def allocation(analysis: Analysis) -> Chart:
    """N* and D* against compute: the frontier with its interval, beside other laws and the other approaches."""
    curve, points = analysis.curve, points_of(analysis)
    others = {"IsoFLOP optima": (analysis.isoflop.found, "circle"), "lowest hull": (analysis.envelope, "square")}
    laws = figures_of_laws.frontiers_of_laws(analysis)
    panels, chosen = [], analysis.runs.chosen
    runs = [(s, at) for s in points.order for held in (False, True) if (at := points.groups[held, s]).size]
    for name, label in (("N", count_label(analysis)), ("D", analysis.unit)):
        marks = [Mark("band", curve.C, low=curve[f"{name}_low"], high=curve[f"{name}_high"])]
        C, values = chosen.C.to_numpy(float), chosen[name].to_numpy(float)
        style: dict[str, Any] = {"color": GREY, "size": 3.2}
        marks += [Mark("points", C[at], values[at], scale=s, runs=points.runs_at(at), **style) for s, at in runs]
        for i, (law, found) in enumerate(laws.items()):
            color = scale_color(i + 1, len(laws) + 1)
            marks.append(Mark("line", found.C, getattr(found, name), color=color, dash="dot", name=law))
        for i, (part, dash) in enumerate(inside_and_beyond(curve, float(analysis.runs.chosen.C.max()))):
            named = f"{analysis.settings.law}, dashed beyond the runs" if i == 0 else ""
            marks.append(Mark("line", part.C, part[name], dash=dash, width=1.9, name=named))
        for i, (key, (found, symbol)) in enumerate(others.items()):
            if found is not None:
                optima, color = found.optima, scale_color(2 + 6 * i, 12)
                marks.append(Mark("points", optima.C, optima[name], color=color, symbol=symbol, size=6.5, name=key))
        axes = Axis("training FLOPs", "flops", True), Axis(label, "count", True)
        panels.append(Panel(*axes, tuple(marks), f"{name}*(C)"))
    caption = "The best split of compute into parameters and data, with its interval, beside other laws and approaches."
    return Chart("allocation", "How to split compute", caption, tuple(panels))


def inside_and_beyond(curve: pd.DataFrame, largest: float) -> tuple:
    """(frontier, line style) up to the largest run, and beyond it."""
    if not len(curve):
        return ()
    # The point next to the border belongs to both, so that the line has no gap.
    border = int(np.searchsorted(curve["C"], largest * LADDER_MARGIN))
    return (curve[: border + 1], "solid"), (curve[border:], "dash")
