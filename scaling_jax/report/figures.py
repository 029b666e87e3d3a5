"""The figures of an Analysis: learning curves, loss against compute, IsoFLOP curves, residuals, allocation."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from scipy.interpolate import Akima1DInterpolator

from scaling_jax.analysis import Analysis
from scaling_jax.analysis.frames import groups_of, rows_of
from scaling_jax.analysis.status import DIVERGED
from scaling_jax.report import style, ticks
from scaling_jax.report.slices import has_slices, slices
from scaling_jax.report.style import COLORS, GREY, HELD_OUT, INK
from scaling_jax.text import short

STARS = ("*", "p", "P", "X", "h")
NAMES = ("loss_vs_compute", "learning_curves", "isoflop", "residuals", "allocation", "n_and_d", "law")
PER_METRIC = ("vs_compute", "n_and_d")
SMOOTHING_BINS = 40
FORECAST = (0, (4, 2))


def draw(analysis: Analysis) -> dict[str, Figure]:
    """File stem -> figure, in the order in which they are read; what the runs do not allow is left out."""
    figures = {}
    runs, compute = analysis.runs, analysis.runs.has_compute
    if compute:
        figures["loss_vs_compute"] = loss_vs_compute(analysis)
        if analysis.curves is not None and analysis.curves.run_id.isin(runs.table.run_id).any():
            figures["learning_curves"] = learning_curves(analysis)
    if len(analysis.isoflop.points):
        figures["isoflop"] = isoflop(analysis)
    if analysis.fit is not None:
        if len(analysis.fit.law.inputs) == 1:
            figures["law"] = law_of_one(analysis)
        figures["residuals"] = residuals(analysis)
    if len(analysis.frontier):
        figures["allocation"] = allocation(analysis)
    if has_slices(analysis):
        figures["n_and_d"] = slices(analysis)
    for metric, other in analysis.also.items():
        if other.runs.has_compute:
            figures[f"{metric}_vs_compute"] = loss_vs_compute(other)
        if has_slices(other):
            figures[f"{metric}_n_and_d"] = slices(other)
    for figure in figures.values() if runs.simulated else ():
        figure.suptitle(style.plain(f"SIMULATED from {runs.simulated}"), color=HELD_OUT, fontsize=10, wrap=True)
    return figures


def is_name(stem: str) -> bool:
    """Returns True for a file stem that a report may have drawn."""
    return stem in NAMES or stem.endswith(tuple(f"_{name}" for name in PER_METRIC))


def learning_curves(analysis: Analysis) -> Figure:
    """Training loss against tokens and against FLOPs, a color per scale; dots are the final validation losses."""
    assert analysis.curves is not None
    figure, axes = style.figure(10.4, 4.6, 2)
    runs, colors = analysis.runs, style.scale_colors(analysis)
    by_run = {run_id: rows.sort_values("step") for (run_id,), rows in groups_of(analysis.curves, ["run_id"])}
    drawn = [(run, smooth(by_run[run.run_id])) for run in rows_of(runs.chosen) if run.run_id in by_run]
    lost = [by_run[i][np.isfinite(by_run[i].loss)] for i in runs.of_status(DIVERGED).run_id if i in by_run]
    lost = [rows for rows in lost if len(rows)]
    final = analysis.metric == "loss"
    for ax, x, end in zip(axes, ("tokens", "flops"), "DC"):
        for run, curve in drawn:
            ax.plot(curve[x], curve.loss, color=colors[run.scale], lw=1.1, zorder=2)
        for rows in lost:
            ax.plot(rows[x], rows.loss, color=HELD_OUT, lw=0.9, ls=(0, (3, 2)), zorder=1)
            ax.plot(rows[x].iloc[-1:], rows.loss.iloc[-1:], "x", color=HELD_OUT, ms=6, mew=1.4, zorder=4)
        if final:
            fill = [colors[scale] for scale in runs.chosen.scale]
            ax.scatter(runs.chosen[end], runs.chosen.y, c=fill, s=18, edgecolors="white", linewidths=0.5, zorder=3)
        ax.set_yscale("log")
        style.axes(ax, analysis.unit if x == "tokens" else "training FLOPs", "training loss" if x == "tokens" else "")
    # A diverged loss may rise without end: the others decide what is shown.
    shown = [curve.loss for _, curve in drawn] + ([runs.chosen.y] if final else [])
    for ax in axes if shown else ():
        ax.set_ylim(min(map(min, shown)) * 0.97, max(map(max, shown)) * 1.03)
        ticks.plain_numbers(ax.yaxis)
    handles = style.scale_handles(analysis, colors)
    handles += [Line2D([], [], marker="o", ls="", color=GREY, ms=5, label="final, validation")] if final else []
    handles += [Line2D([], [], color=HELD_OUT, ls=(0, (3, 2)), marker="x", label="diverged")] if lost else []
    figure.legend(handles=handles, loc="outside right upper", frameon=False, fontsize=9)
    return figure


def loss_vs_compute(analysis: Analysis) -> Figure:
    """Every finished run by compute and loss, the frontier out to the targets, and the predictions of held-out runs."""
    figure, (ax,) = style.figure(8.6, 5.2, 1)
    runs, colors = analysis.runs, style.scale_colors(analysis)
    held = set() if analysis.hold_out is None else set(analysis.hold_out.rows.run_id)
    for (scale,), rows in groups_of(runs.chosen, ["scale"]):
        line = rows.groupby("D", as_index=False)[["C", "y"]].mean().sort_values("C")
        ax.plot(line.C, line.y, color=colors[scale], lw=1.1, alpha=0.8, zorder=2)
        seen = rows[~rows.run_id.isin(held)]
        ax.scatter(seen.C, seen.y, color=colors[scale], s=30, edgecolors="white", linewidths=0.5, zorder=4)
    handles = style.scale_handles(analysis, colors)
    if analysis.hold_out is not None:
        rows = analysis.hold_out.rows
        ax.vlines(rows.C, rows.low, rows.high, color=HELD_OUT, lw=1.2, zorder=4)
        ax.scatter(rows.C, rows.predicted, marker="_", color=HELD_OUT, s=70, linewidths=1.6, zorder=5)
        fill = [colors[scale] for scale in rows.scale]
        ax.scatter(rows.C, rows.y, marker="D", c=fill, s=26, zorder=5, **style.HELD_OUT_EDGE)
        handles += [
            Line2D([], [], marker="D", ls="", color=GREY, mec=HELD_OUT, mew=1.3, label="held out"),
            Line2D([], [], marker="_", ls="", color=HELD_OUT, ms=9, mew=1.6, label="its prediction"),
        ]
    if len(analysis.curve):
        handles += _frontier(ax, analysis)
    style.axes(ax, "training FLOPs", style.plain(analysis.y_label))
    ax.set_yscale("log")
    ticks.plain_numbers(ax.yaxis)
    figure.legend(handles=handles, loc="outside right upper", frameon=False, fontsize=9)
    return figure


def _frontier(ax: Axes, analysis: Analysis) -> list:
    """Draws L*(C) with its interval, dashed and starred beyond the runs; returns its legend."""
    curve = analysis.curve
    ax.fill_between(curve.C, curve.loss_low, curve.loss_high, color=INK, alpha=0.13, lw=0, zorder=1)
    for part, dashes in _inside_and_beyond(analysis):
        ax.plot(part.C, part.loss, color=INK, lw=1.8, ls=dashes, zorder=3)
    targets = analysis.frontier[analysis.frontier.beyond > 1.01]
    level = f"{analysis.settings.level:.0%} interval"
    handles = [Line2D([], [], color=INK, lw=1.8, label="frontier $L^*(C)$"), Patch(color=INK, alpha=0.13, label=level)]
    for i, row in enumerate(rows_of(targets)):
        ax.plot([row.C], [row.loss], marker=STARS[i % len(STARS)], ms=12, color=INK, mec="white", zorder=6)
        # Written in the legend, where several targets cannot run into each other or the runs.
        metric = style.plain(analysis.metric)
        label = f"{row.beyond:.3g}x: $N^*$ {short(row.N)},\n$D^*$ {short(row.D)}, {metric} {row.loss:.4g}"
        mark = Line2D([], [], color=INK, ls=FORECAST, marker=STARS[i % len(STARS)], ms=9, mec="white", label=label)
        handles.append(mark)
    return handles


def isoflop(analysis: Analysis) -> Figure:
    """Loss against N at equal compute with its optima, and (dashed) what the law says of the same budgets."""
    figure, (ax,) = style.figure(8.6, 5.2, 1)
    sweeps, handles = analysis.isoflop, []
    budgets = sorted(sweeps.points.budget.unique())
    optima = {} if sweeps.found is None else {float(o.C): o for o in sweeps.found.optima}
    for i, budget in enumerate(budgets):
        rows = sweeps.points[sweeps.points.budget == budget].sort_values("N")
        color = COLORS(style.LIGHTEST * i / max(len(budgets) - 1, 1))
        grid = np.geomspace(rows.N.iloc[0], rows.N.iloc[-1], 200)
        curve = Akima1DInterpolator(np.log(rows.N), np.log(rows.y))(np.log(np.clip(grid, grid[0], rows.N.iloc[-1])))
        ax.plot(grid, np.exp(curve), color=color, lw=1.3, zorder=2)
        if analysis.fit is not None and analysis.fit.law.inputs == ("N", "D"):
            per_token = np.exp(np.interp(np.log(grid), np.log(rows.N), np.log(budget / rows.D)))
            ax.plot(
                grid, analysis.fit.predict({"N": grid, "D": budget / per_token}), color=color, lw=1, ls=":", zorder=1
            )
        face = "white" if sweeps.interpolated else color
        edge = color if sweeps.interpolated else "white"
        ax.scatter(rows.N, rows.y, color=face, edgecolors=edge, s=30, linewidths=1.1, zorder=3)
        handles.append(Line2D([], [], color=color, lw=2, label=f"{budget:.2e} FLOPs"))
        if budget in optima:
            best = optima[budget]
            ax.plot([best.N], [best.loss], marker="*", ms=15, color=color, mec=INK, mew=0.8, zorder=5)
    if len(handles) > style.MAX_LEGEND:
        handles = [handles[i] for i in np.linspace(0, len(handles) - 1, style.MAX_LEGEND).round().astype(int)]
    handles += [Line2D([], [], marker="*", ls="", ms=12, color=GREY, mec=INK, label="lowest")] if optima else []
    handles += [Line2D([], [], color=GREY, lw=1, ls=":", label=analysis.settings.law)] if analysis.fit else []
    if sweeps.interpolated:
        label = "read between\na scale's budgets"
        handles.append(Line2D([], [], marker="o", ls="", color="white", mec=GREY, label=label))
    style.axes(ax, style.size_label(analysis), style.plain(analysis.y_label))
    ax.set_yscale("log")
    ticks.plain_numbers(ax.yaxis)
    ticks.few_labels(ax.xaxis)
    figure.legend(handles=handles, loc="outside right upper", frameon=False, fontsize=9)
    return figure


def residuals(analysis: Analysis) -> Figure:
    """Predicted against observed, and observed / predicted - 1: of the hold-out fit where there is one."""
    figure, (left, right) = style.figure(10.4, 4.4, 2)
    colors, found, chosen = style.scale_colors(analysis), analysis.hold_out, analysis.runs.chosen
    fit = analysis.fit if found is None else found.fitted.fit
    assert fit is not None
    seen = chosen if found is None else chosen[~chosen.run_id.isin(found.rows.run_id)]
    groups = [(seen, fit.predict(fit.data), {"s": 26, "edgecolors": "white", "linewidths": 0.5})]
    if found is not None:
        groups.append((found.rows, found.rows.predicted, {"s": 32, "marker": "D"} | style.HELD_OUT_EDGE))
    for rows, predicted, marks in groups:
        fill = [colors[scale] for scale in rows.scale]
        left.scatter(rows.y, predicted, c=fill, zorder=3, **marks)
        right.scatter(_size(analysis, rows), 100 * (rows.y / predicted - 1), c=fill, zorder=3, **marks)
    left.axline((seen.y.mean(), seen.y.mean()), slope=1, color=GREY, lw=1, ls="--", zorder=2)
    right.axhline(0, color=GREY, lw=1, ls="--", zorder=2)
    metric = style.plain(analysis.metric)
    style.axes(left, f"observed {metric}", f"predicted {metric}")
    left.set_xscale("linear")
    left.set_aspect("equal", adjustable="datalim")
    style.axes(right, _size_name(analysis), "observed / predicted - 1 (%)")
    handles = style.scale_handles(analysis, colors)
    if found is not None:
        handles.append(Line2D([], [], marker="D", ls="", color=GREY, mec=HELD_OUT, mew=1.3, label="held out"))
    figure.legend(handles=handles, loc="outside right upper", frameon=False, fontsize=9)
    return figure


def allocation(analysis: Analysis) -> Figure:
    """N* and D* against compute: the frontier with its interval, beside the optima of the other approaches."""
    figure, axes = style.figure(10.4, 4.4, 2)
    curve = analysis.curve
    others = {"IsoFLOP": (analysis.isoflop.found, "o"), "lowest hull": (analysis.envelope, "s")}
    for ax, name, label in zip(axes, "ND", (style.size_label(analysis), analysis.unit)):
        ax.fill_between(curve.C, curve[f"{name}_low"], curve[f"{name}_high"], color=INK, alpha=0.13, lw=0, zorder=1)
        for part, dashes in _inside_and_beyond(analysis):
            ax.plot(part.C, part[name], color=INK, lw=1.8, ls=dashes, zorder=3)
        ax.scatter(
            analysis.runs.chosen.C, analysis.runs.chosen[name], color=GREY, s=10, alpha=0.6, linewidths=0, zorder=2
        )
        for i, (found, marker) in enumerate(others.values()):
            if found is not None:
                ax.scatter(
                    found.optima.C, found.optima[name], color=COLORS(0.2 + 0.4 * i), marker=marker, s=36,
                    edgecolors="white", linewidths=0.5, zorder=4,
                )  # fmt: skip
        style.axes(ax, "training FLOPs", label)
        ax.set_yscale("log")
        ax.set_title(f"${name}^*(C)$", fontsize=11)
    handles = [
        Line2D([], [], color=INK, lw=1.8, label=f"{analysis.settings.law} frontier"),
        Line2D([], [], color=GREY, marker="o", ms=3.5, ls="", label="runs"),
    ]
    handles += [
        Line2D([], [], color=COLORS(0.2 + 0.4 * i), marker=marker, ls="", label=key)
        for i, (key, (found, marker)) in enumerate(others.items())
        if found is not None
    ]
    axes[0].legend(handles=handles, frameon=False, loc="upper left", fontsize=9)
    return figure


def smooth(rows: pd.DataFrame) -> pd.DataFrame:
    """Means over equal steps of ln(step): learning-curve points are as noisy as their batches."""
    rows = rows[np.isfinite(rows.loss)]
    if len(rows) <= SMOOTHING_BINS:
        return rows[["tokens", "flops", "loss"]]
    position = np.log(rows.step.clip(lower=1).to_numpy(float))
    edges = np.linspace(position[0], position[-1], SMOOTHING_BINS)
    return rows.groupby(np.digitize(position, edges))[["tokens", "flops", "loss"]].mean()


def _inside_and_beyond(analysis: Analysis) -> tuple:
    """(frontier, line style) up to the largest run, and beyond it."""
    curve, largest = analysis.curve, analysis.runs.chosen["C"].max()
    # The point next to the border belongs to both, so that the line has no gap.
    border = int(np.searchsorted(curve["C"], largest * 0.9999))
    return (curve[: border + 1], "-"), (curve[border:], FORECAST)


def law_of_one(analysis: Analysis) -> Figure:
    """Runs and curve of a law of one input, with the interval of its mean."""
    figure, (ax,) = style.figure(8.6, 5.2, 1)
    assert analysis.fitted is not None
    fit = analysis.fitted.fit
    (name,) = fit.law.inputs
    x, y = np.asarray(fit.data[name], float), np.asarray(fit.y, float)
    wide = x.min() > 0 and x.max() > 10 * x.min()
    grid = (np.geomspace if wide else np.linspace)(x.min(), x.max(), 300)
    value, low, high = analysis.fitted.predict({name: grid}, analysis.settings.level)
    if np.isfinite(low).any():
        ax.fill_between(grid, low, high, color=INK, alpha=0.13, lw=0, label=f"{analysis.settings.level:.0%} interval")
    ax.plot(grid, value, color=INK, lw=1.8, zorder=3, label=fit.law.name)
    held = set() if analysis.hold_out is None else set(analysis.hold_out.rows.run_id)
    out = analysis.runs.chosen.run_id.isin(held).to_numpy()
    ax.scatter(x[~out], y[~out], color=COLORS(0.35), s=30, edgecolors="white", linewidths=0.5, zorder=4, label="runs")
    if out.any():
        ax.scatter(
            x[out], y[out], color=COLORS(0.35), marker="D", s=28, zorder=4, label="held out", **style.HELD_OUT_EDGE
        )
    style.axes(ax, style.plain(analysis.runs.names.get(name, name)), style.plain(analysis.y_label))
    if wide:
        ticks.few_labels(ax.xaxis)
    else:
        ax.set_xscale("linear")
    ax.legend(frameon=False, fontsize=9)
    return figure


def _size(analysis: Analysis, rows: pd.DataFrame) -> np.ndarray:
    """(n,) the scale of residuals: FLOPs, else the law's first input."""
    if analysis.runs.has_compute:
        return rows.C.to_numpy(float)
    assert analysis.fit is not None
    first = np.asarray(analysis.fit.data[analysis.fit.law.inputs[0]], float)
    return pd.Series(first, index=analysis.runs.chosen.run_id)[rows.run_id].to_numpy()


def _size_name(analysis: Analysis) -> str:
    if analysis.runs.has_compute or analysis.fit is None:
        return "training FLOPs"
    first = analysis.fit.law.inputs[0]
    return style.plain(analysis.runs.names.get(first, first))
