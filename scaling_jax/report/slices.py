"""The law cut two ways: y against N at each amount of data, and against the data at each size."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from scaling_jax.analysis import Analysis
from scaling_jax.analysis.frames import rows_of
from scaling_jax.analysis.runs import same_budget
from scaling_jax.report import style, ticks
from scaling_jax.report.style import GREY, HELD_OUT
from scaling_jax.text import short

DATA_COLORS = colormaps["plasma"]
MAX_LEVELS = 8
MARGIN = 1.25  # curves reach this far beyond the runs


def has_slices(analysis: Analysis) -> bool:
    """Returns True for a law of N and D (and of the unique data)."""
    return (
        analysis.runs.has_compute
        and analysis.fit is not None
        and {"N", "D"} <= set(analysis.fit.law.inputs) <= {"N", "D", "U"}
    )


def slices(analysis: Analysis) -> Figure:
    """Two panels; dots are runs, lines the law through all of them, diamonds the runs that were held out."""
    fit = analysis.fit
    assert fit is not None
    figure, (left, right) = style.figure(10.4, 4.6, 2)
    chosen = analysis.runs.chosen
    held = set() if analysis.hold_out is None else set(analysis.hold_out.rows.run_id)
    scale_colors, levels = style.scale_colors(analysis), data_levels(chosen.D.to_numpy(float))
    data_colors = DATA_COLORS(0.85 * np.arange(len(levels)) / max(len(levels) - 1, 1))
    nearest = np.abs(np.log(chosen.D.to_numpy(float)[:, None] / levels)).argmin(1)
    other = {} if "U" not in fit.law.inputs else {"U": float(chosen.U.max())}
    sizes, amounts = (np.geomspace(x.min() / MARGIN, x.max() * MARGIN, 200) for x in (chosen.N, chosen.D))
    for level, color in zip(levels, data_colors):
        left.plot(sizes, fit.predict({"N": sizes, "D": level} | other), color=color, lw=1.2, zorder=2)
    for scale in rows_of(analysis.runs.scales):
        curve = fit.predict({"N": scale.N, "D": amounts} | other)
        right.plot(amounts, curve, color=scale_colors[scale.scale], lw=1.2, zorder=2)
    for ax, x, colors in (
        (left, chosen.N, data_colors[nearest]),
        (right, chosen.D, np.array([scale_colors[scale] for scale in chosen.scale])),
    ):
        out = chosen.run_id.isin(held).to_numpy()
        ax.scatter(x[~out], chosen.y[~out], c=colors[~out], s=30, edgecolors="white", linewidths=0.5, zorder=3)
        ax.scatter(x[out], chosen.y[out], c=colors[out], s=28, marker="D", zorder=4, **style.HELD_OUT_EDGE)
        style.axes(ax, "", style.plain(analysis.y_label) if ax is left else "")
        ax.set_yscale("log")
        ticks.few_labels(ax.xaxis)
    shown = [ax.get_ylim() for ax in (left, right)]
    for ax in (left, right):
        ax.set_ylim(min(low for low, _ in shown), max(high for _, high in shown))
        ticks.plain_numbers(ax.yaxis)
    left.set_xlabel(style.size_label(analysis))
    right.set_xlabel(f"{analysis.unit} seen" if analysis.unit == "samples" else analysis.unit)
    handles = [
        Line2D([], [], color=color, lw=2, marker="o", ms=5, label=f"D = {short(level)}")
        for level, color in zip(levels, data_colors)
    ]
    handles += style.scale_handles(analysis, scale_colors)
    if held:
        handles.append(Line2D([], [], marker="D", ls="", color=GREY, mec=HELD_OUT, mew=1.3, label="held out"))
    figure.legend(handles=handles, loc="outside right upper", frameon=False, fontsize=9)
    return figure


def data_levels(D: np.ndarray) -> np.ndarray:
    """The budgets that runs share, or, where they have their own, a few between the smallest and the largest."""
    groups = np.unique(same_budget(pd.Series(D)).round(6))
    if len(groups) <= MAX_LEVELS:
        return groups
    return np.geomspace(D.min(), D.max(), MAX_LEVELS // 2 + 1)
