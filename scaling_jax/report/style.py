"""Shared by all figures: colors by scale, axes, legends, plain text."""

from __future__ import annotations

import numpy as np
from matplotlib import colormaps, ticker
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from scaling_jax.analysis import Analysis
from scaling_jax.analysis.frames import rows_of
from scaling_jax.text import short

COLORS = colormaps["viridis"]
INK, GREY, HELD_OUT = "#222222", "#8a8a8a", "#d1495b"  # lines and text; guides; runs that the fit has not seen
MAX_LEGEND = 14
LIGHTEST = 0.88  # the end of the color map is unreadable on white
HELD_OUT_EDGE = {"edgecolors": HELD_OUT, "linewidths": 1.3}
NARROW, NARROW_LABEL = 4.4, 20  # width in inches on a phone; characters of a label in a legend of two columns
COUNTS = {
    "params_matmul": "matmul parameters",
    "params_non_embedding": "non-embedding parameters",
    "params_total": "parameters",
}


def plain(text: object) -> str:
    """Text that matplotlib shows as it is: no dollar sign begins a formula, no underscore hides a label."""
    shown = str(text).replace("$", r"\$")
    return f"\u200b{shown}" if shown.startswith("_") else shown


def size_label(analysis: Analysis) -> str:
    """The label of an axis of N."""
    name = analysis.runs.names.get("N", "N")
    return COUNTS.get(name, plain(name))


def scale_colors(analysis: Analysis) -> dict[str, tuple]:
    """Scale -> color, dark to light in the order of N; without the map's lightest end, unreadable on white."""
    scales = list(analysis.runs.scales.scale)
    return {scale: COLORS(LIGHTEST * i / max(len(scales) - 1, 1)) for i, scale in enumerate(scales)}


def scale_handles(analysis: Analysis, colors: dict[str, tuple]) -> list[Line2D]:
    """The legend's lines of the scales; of very many some."""
    scales = list(rows_of(analysis.runs.scales))
    if len(scales) > MAX_LEGEND:
        scales = [scales[i] for i in np.linspace(0, len(scales) - 1, MAX_LEGEND).round().astype(int)]
    return [
        Line2D([], [], color=colors[s.scale], lw=2, marker="o", ms=5, label=plain(scale_label(s.scale, s.N)))
        for s in scales
    ]


def scale_label(scale: str, N: float) -> str:
    """w64-d2  (131k); a scale that is called by its size is not named twice."""
    return str(scale) if str(scale) == short(N) or not np.isfinite(N) else f"{scale}  ({short(N)})"


def figure(width: float, height: float, panels: int) -> tuple[Figure, list[Axes]]:
    """A figure of so many panels side by side; sizes in inches."""
    drawn = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(drawn)
    return drawn, list(np.atleast_1d(drawn.subplots(1, panels, sharey=False)))


def narrow(drawn: Figure) -> Figure:
    """The same figure rearranged for a phone, in place: panels and legend one below the other."""
    panels = drawn.axes
    grid = drawn.add_gridspec(len(panels), 1)
    for row, ax in enumerate(panels):
        ax.set_subplotspec(grid[row, 0])
    rows = 0
    for legend in list(drawn.legends):
        handles, labels = legend.legend_handles, [text.get_text() for text in legend.get_texts()]
        columns = 2 if max(map(len, labels)) <= NARROW_LABEL else 1
        rows += sum(label.count("\n") + 1 for label in labels) / columns
        legend.remove()
        drawn.legend(
            handles=handles, labels=labels, loc="outside lower center", ncols=columns, frameon=False, fontsize=9
        )
    drawn.set_layout_engine("constrained", w_pad=0.1)  # axes of equal aspect move after the layout
    drawn.set_size_inches(NARROW, NARROW * 0.85 * len(panels) + 0.22 * rows)
    return drawn


def axes(ax: Axes, x_label: str, y_label: str) -> None:
    """Light lines, a logarithmic x axis, labels."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(True, which="major", color="#e6e6e6", lw=0.7)
    ax.set_axisbelow(True)
    ax.set_xscale("log")
    ax.xaxis.set_minor_formatter(ticker.NullFormatter())
    ax.set_xlabel(x_label)
    ax.set_ylabel(y_label)
