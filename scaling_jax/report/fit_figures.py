"""Figures of a fit: loss against compute, IsoFLOP sweeps, residuals, the split of compute. Matplotlib without pyplot.

Every function takes a `Fit` (or `IsoFlop`) and arrays and returns a `matplotlib.figure.Figure`, drawn by Agg: nothing
is shown, no global state is touched, `png` gives the file.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import colormaps, ticker
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, LogNorm
from matplotlib.figure import Figure

from scaling_jax.report import ticks
from scaling_jax.text import short

COLORS = colormaps["viridis"]
SCALE = ListedColormap(COLORS(np.linspace(0.0, 0.9, 256)))  # the yellow end is unreadable on white
INK, GREY, HELD_OUT = "#222222", "#8a8a8a", "#d1495b"  # lines and text; guides; points that the fit has not seen
MAX_JOINED_SIZES = 40


def png(figure: Figure, dpi: int = 150) -> bytes:
    """A figure as the content of a .png."""
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=dpi)
    return content.getvalue()


def loss_vs_compute(
    fit,
    C,
    *,
    held_out: Mapping | None = None,
    target_flops: float | None = None,
    level: float | None = None,
    y_label: str = "loss",
    title: str = "",
    frontier=None,
) -> Figure:
    """Runs by compute and loss, coloured by N, with the fitted frontier out to the target.

    Args:
      fit: a `Fit` of a law with inputs N and D that has a frontier.
      C: (n,) training FLOPs of the fitted runs.
      held_out: columns N, C, y of runs that the fit has not seen (drawn as open diamonds).
      target_flops: the frontier is drawn to here and marked with its N*, D* and loss.
      level: shades this interval of the frontier's loss (needs a bootstrap: seconds).
      y_label, title: what y is, and what the figure is called.
      frontier: frontier(C, level=) of the law where it reads more than N and D; None takes `fit.frontier`.
    """
    figure, ax = _figure(7.2, 4.8)
    C, N, y = np.asarray(C, float), np.asarray(fit.data["N"], float), np.asarray(fit.y, float)
    frontier_at = fit.frontier if frontier is None else frontier
    norm = _log_norm(np.concatenate([N, _column(held_out, "N")]))
    _join_sizes(ax, C, N, y, norm, [v for k, v in fit.data.items() if k not in ("N", "D", "M")])
    ax.scatter(C, y, c=SCALE(norm(N)), s=26, linewidths=0.4, edgecolors="white", zorder=3)
    if held_out is not None:
        colors = SCALE(norm(_column(held_out, "N")))
        ax.scatter(
            _column(held_out, "C"), _column(held_out, "y"),
            facecolors=colors, edgecolors=HELD_OUT, marker="D", s=40, linewidths=1.4, zorder=4, label="held out",
        )  # fmt: skip
    everything = np.concatenate([C, _column(held_out, "C"), [target_flops] if target_flops else []])
    grid = np.geomspace(everything.min(), everything.max(), 120)
    frontier = frontier_at(grid, level=level)
    inside = grid <= C.max()
    ax.plot(grid[inside], frontier.loss[inside], color=INK, lw=1.8, zorder=5, label="fitted frontier")
    ax.plot(grid[~inside], frontier.loss[~inside], color=INK, lw=1.8, ls=(0, (4, 2)), zorder=5)
    if level is not None:
        low, high = _band(frontier, "loss")
        ax.fill_between(grid, low, high, color=INK, alpha=0.13, lw=0, zorder=1, label=f"{level:.0%} interval")
    if target_flops:
        at = frontier_at(target_flops)
        n, d, loss = (float(np.squeeze(getattr(at, k))) for k in ("N", "D", "loss"))
        label = f"target {target_flops:.3g}: N* {short(n)}, D* {short(d)}, {y_label} {loss:.4g}"
        ax.plot([target_flops], [loss], "*", ms=14, color=HELD_OUT, mec="white", zorder=6, label=label)
    _log_axes(ax, "training FLOPs", y_label)
    _size_bar(figure, ax, norm)
    ax.legend(frameon=False, loc="upper right")
    ax.set_title(title)
    return figure


def isoflop(result, *, held_out: Mapping | None = None, y_label: str = "loss", title: str = "") -> Figure:
    """Loss against N at each compute budget, the curve drawn through it, and its optimum.

    Args:
      result: an `IsoFlop`.
      held_out: columns N, C, y of runs that were not used.
      y_label, title: what y is, and what the figure is called.
    """
    figure, ax = _figure(7.2, 4.8)
    norm = _log_norm(np.array([sweep.C for sweep in result.sweeps]))
    for i, sweep in enumerate(result.sweeps):
        color = SCALE(norm(sweep.C))
        ax.scatter(sweep.N, sweep.loss, color=color, s=20, linewidths=0.4, edgecolors="white", zorder=3)
        ax.plot(*result.curve(i), color=color, lw=1.2, zorder=2)
    if held_out is not None:
        ax.scatter(
            _column(held_out, "N"), _column(held_out, "y"), marker="D", s=36, zorder=4, label="held out",
            facecolors=SCALE(norm(_column(held_out, "C"))), edgecolors=HELD_OUT, linewidths=1.4,
        )  # fmt: skip
    optima = result.optima
    ax.plot(optima.N, optima.loss, color=GREY, lw=1, ls="--", zorder=4)
    ax.scatter(
        optima.N, optima.loss, marker="*", s=130, color=SCALE(norm(optima.C)), edgecolors=INK, linewidths=0.8,
        zorder=5, label=rf"lowest: $N^* \propto C^{{{result.a:.3f}}}$",
    )  # fmt: skip
    _log_axes(ax, "parameters N", y_label)
    ticks.few_labels(ax.xaxis)
    _size_bar(figure, ax, norm, "training FLOPs")
    ax.legend(frameon=False, loc="best")
    ax.set_title(title)
    return figure


def residuals(
    fit, C, *, held_out: Mapping | None = None, color_by=None, color_label="parameters N", scale_label="training FLOPs"
) -> Figure:
    """Predicted against observed, and the relative residual against compute (or any other scale).

    Args:
      fit: a `Fit`.
      C: (n,) the scale of the second panel for the fitted runs, usually FLOPs.
      held_out: columns of the law's inputs, C and y of runs that the fit has not seen.
      color_by: (n,) positive values for the colours; None takes N where the law has it.
      color_label: what they are. scale_label: what C is.
    """
    figure = Figure(figsize=(10.4, 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    C, y = np.asarray(C, float), np.asarray(fit.y, float)
    color_by = fit.data.get("N") if color_by is None else color_by
    norm = None if color_by is None else _log_norm(np.asarray(color_by, float))
    colors = INK if norm is None else SCALE(norm(np.asarray(color_by, float)))
    predicted = np.asarray(fit.predict(fit.data), float)
    dots = {"s": 22, "linewidths": 0.4, "edgecolors": "white", "zorder": 3}
    left.scatter(y, predicted, c=colors, **dots)
    right.scatter(C, 100 * (y / predicted - 1), c=colors, **dots)
    if held_out is not None:
        seen = np.asarray(fit.predict({k: _column(held_out, k) for k in fit.data}), float)
        diamonds = {
            "marker": "D",
            "s": 36,
            "facecolors": "none",
            "edgecolors": HELD_OUT,
            "linewidths": 1.4,
            "zorder": 4,
        }
        left.scatter(_column(held_out, "y"), seen, label="held out", **diamonds)
        right.scatter(_column(held_out, "C"), 100 * (_column(held_out, "y") / seen - 1), **diamonds)
        left.legend(frameon=False, loc="upper left")
    ends = [min(y.min(), predicted.min()), max(y.max(), predicted.max())]
    left.plot(ends, ends, color=GREY, lw=1, ls="--", zorder=2)
    right.axhline(0, color=GREY, lw=1, ls="--", zorder=2)
    middle = _running_median(C, 100 * (y / predicted - 1))
    if middle is not None:
        right.plot(*middle, color=INK, lw=1.8, zorder=5, label="running median")
        right.legend(frameon=False, loc="best")
    _log_axes(left, "observed", "predicted", log_values=True)
    _style(right)
    right.set_xscale("log")
    right.set_xlabel(scale_label)
    right.set_ylabel("observed / predicted - 1 (%)")
    if norm is not None:
        _size_bar(figure, right, norm, color_label)
    return figure


def allocation(
    frontier, optima: Mapping[str, np.recarray], target_flops: float | None = None, level: float | None = None
) -> Figure:
    """N* and D* against compute: the fitted frontier and the optima of the other approaches.

    Args:
      frontier: a function of C (n,) and level= giving a `Frontier` (a Fit's `frontier`), or None.
      optima: label -> record array with `.C .N .D` (an `IsoFlop`'s or `Envelope`'s `optima`).
      target_flops: the lines are drawn to here.
      level: shades this interval of the fitted frontier.
    """
    figure = Figure(figsize=(10.4, 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    every_c = np.concatenate([found.C for found in optima.values()] + ([[target_flops]] if target_flops else []))
    grid = np.geomspace(every_c.min(), every_c.max(), 60)
    fitted = frontier(grid, level=level) if frontier is not None else None
    markers = ["o", "s", "^", "v", "P"]
    for ax, name, label in zip(figure.subplots(1, 2), "ND", ("parameters N*", "tokens D*")):
        if fitted is not None:
            best = getattr(fitted, name)
            slope = np.log(best[-1] / best[-2]) / np.log(grid[-1] / grid[-2])  # at the target, where it may bend
            ax.plot(grid, best, color=INK, lw=1.8, label=f"parametric law: $C^{{{slope:.3f}}}$", zorder=4)
            if level is not None:
                ax.fill_between(grid, *_band(fitted, name), color=INK, alpha=0.13, lw=0, zorder=1,
                                label=f"{level:.0%} interval")  # fmt: skip
        for i, (key, found) in enumerate(optima.items()):
            color = COLORS(0.15 + 0.7 * i / max(len(optima) - 1, 1))
            slope, intercept = np.polyfit(np.log(found.C), np.log(found[name]), 1)
            ax.plot(grid, np.exp(intercept) * grid**slope, color=color, lw=1, ls="--", zorder=2)
            ax.scatter(
                found.C, found[name], color=color, marker=markers[i % 5], s=30, edgecolors="white", linewidths=0.4,
                zorder=3, label=f"{key}: $C^{{{slope:.3f}}}$",
            )  # fmt: skip
        if target_flops:
            ax.axvline(target_flops, color=HELD_OUT, lw=1, ls=":", label="target")
        _style(ax)
        ax.set_xscale("log")
        ax.set_yscale("log")
        ax.set_xlabel("training FLOPs")
        ax.set_ylabel(label)
        ticks.few_labels(ax.yaxis)
        ax.legend(frameon=False, loc="upper left")
    return figure


def law_of_one(
    fit, *, held_out: Mapping | None = None, level: float | None = None, y_label="y", x_label=None
) -> Figure:
    """Points and curve of a law with one input.

    Args:
      fit: a `Fit` of a law of one input.
      held_out: columns of that input and y of points that the fit has not seen.
      level: shades this interval of the prediction.
      y_label, x_label: what the axes hold; None names the law's input.
    """
    figure, ax = _figure(6.4, 4.4)
    (name,) = fit.data
    x, y = np.asarray(fit.data[name], float), np.asarray(fit.y, float)
    every_x = np.concatenate([x, _column(held_out, name)])
    log_x = every_x.min() > 0 and every_x.max() > 10 * every_x.min()
    grid = (np.geomspace if log_x else np.linspace)(every_x.min(), every_x.max(), 300)
    ax.scatter(x, y, color=COLORS(0.35), s=26, linewidths=0.4, edgecolors="white", zorder=3, label="fitted")
    if held_out is not None:
        ax.scatter(
            _column(held_out, name), _column(held_out, "y"), marker="D", s=36, facecolors="none",
            edgecolors=HELD_OUT, linewidths=1.4, zorder=4, label="held out",
        )  # fmt: skip
    if level is None:
        curve = np.asarray(fit.predict({name: grid}), float)
    else:
        prediction = fit.predict({name: grid}, level=level)
        curve = prediction.value
        ax.fill_between(grid, *prediction.interval, color=INK, alpha=0.13, lw=0, label=f"{level:.0%} interval")
    ax.plot(grid, curve, color=INK, lw=1.8, zorder=5, label=fit.law.name)
    _style(ax)
    if log_x:
        ax.set_xscale("log")
        ticks.few_labels(ax.xaxis)
    if y.min() > 0 and y.max() > 10 * y.min():
        ax.set_yscale("log")
        ticks.few_labels(ax.yaxis)
    ax.set_xlabel(name if x_label is None else x_label)
    ax.set_ylabel(y_label)
    ax.legend(frameon=False)
    return figure


def _figure(width: float, height: float):
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots()


def _column(table: Mapping | None, name: str) -> np.ndarray:
    return np.empty(0) if table is None else np.asarray(table[name], float)


def _log_norm(values: np.ndarray) -> LogNorm:
    low, high = float(values.min()), float(values.max())
    return LogNorm(low / 1.5, high * 1.5) if low == high else LogNorm(low, high)


def _join_sizes(ax, C, N, y, norm, others) -> None:
    """Thin lines through the runs of one size (and one value of the law's other inputs): their token budgets."""
    if np.unique(N).size > MAX_JOINED_SIZES:
        return
    _, kinds = np.unique(np.stack([N, *others], axis=1), axis=0, return_inverse=True)
    for kind in range(kinds.max() + 1):
        rows = np.flatnonzero(kinds.ravel() == kind)
        rows = rows[np.argsort(C[rows])]
        if rows.size > 1 and np.all(np.diff(np.log(C[rows])) > 1e-3):  # repeats at one compute are no curve
            ax.plot(C[rows], y[rows], color=SCALE(norm(N[rows[0]])), lw=0.9, alpha=0.55, zorder=2)


def _running_median(x, y, bins: int = 9):
    """(x, y) of medians per budget, or over equal shares of the points; None when there are too few."""
    if x.size < 4 * 5:
        return None
    budgets = np.unique(np.round(np.log(x), 2), return_inverse=True)[1]
    if budgets.max() < 2 * bins:
        parts = [np.flatnonzero(budgets == k) for k in range(budgets.max() + 1)]
    else:
        parts = np.array_split(np.argsort(x), min(bins, x.size // 5))
    return [np.exp(np.median(np.log(x[p]))) for p in parts], [np.median(y[p]) for p in parts]


def _band(frontier, name: str) -> Sequence[np.ndarray]:
    low, high = frontier.interval[name]
    return np.asarray(low, float), np.asarray(high, float)


def _style(ax) -> None:
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(True, which="major", color="#e6e6e6", lw=0.7)
    ax.set_axisbelow(True)


def _log_axes(ax, x_label: str, y_label: str, log_values: bool = False) -> None:
    """Log-log axes with plain numbers on y (and on x when it holds the same quantity), as losses span one decade."""
    _style(ax)
    ax.set_xscale("log")
    ax.set_yscale("log")
    for axis in [ax.yaxis] + ([ax.xaxis] if log_values else []):
        ticks.plain_numbers(axis)
    ax.set_xlabel(x_label)
    ax.set_ylabel(y_label)


def _size_bar(figure, ax, norm, label: str = "parameters N") -> None:
    bar = figure.colorbar(ScalarMappable(norm, SCALE), ax=ax, pad=0.02, label=label)
    bar.outline.set_visible(False)
    if norm.vmax / norm.vmin < 10:  # less than a decade leaves the log locator without a single label
        places = np.geomspace(norm.vmin, norm.vmax, 4)
        bar.set_ticks(places, labels=[short(v) for v in places])
        bar.ax.yaxis.set_minor_locator(ticker.NullLocator())
