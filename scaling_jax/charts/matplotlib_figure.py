"""A chart as a matplotlib figure: one style, legible in print and to the color-blind."""

from __future__ import annotations

import io
import itertools
from typing import Any

import matplotlib
import numpy as np
from matplotlib import colormaps, ticker
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from scaling_jax.charts import ticks
from scaling_jax.charts.chart import AVOIDED, GREY, INK, Axis, Chart, Mark, Panel

COLORS = {INK: "#222222", GREY: "#8a8a8a", AVOIDED: "#d1495b"}
DASHES: dict[str, Any] = {"solid": "-", "dash": (0, (4, 2)), "dot": (0, (1, 1.5))}
SYMBOLS = {
    "circle": "o", "open": "o", "diamond": "D", "star": "*", "square": "s", "cross": "x", "tick": "_",
}  # fmt: skip
SIZES = {1: (8.6, 5.2), 2: (10.4, 4.6), 3: (12.6, 4.4)}  # inches, by the number of panels
MAX_SCALES = 14  # in a legend
NARROW = 6.0  # between the ends of a log axis that is read like a linear one
FEW_DECADES = 60.0  # between the ends of a log axis that needs ticks within decades


class _Shown(Figure):
    """A figure that a notebook shows although pyplot, which teaches notebooks that, was not imported."""

    def _repr_png_(self) -> bytes:
        out = io.BytesIO()
        self.savefig(out, format="png")
        return out.getvalue()


def draw(chart: Chart) -> Figure:
    """The figure of a chart. No text in it is parsed: a metric may be called `loss $\\frac$`."""
    with matplotlib.rc_context({"text.parse_math": False, "text.usetex": False, "svg.fonttype": "path"}):
        columns = 2 if len(chart.panels) == 4 else min(len(chart.panels), 3)
        rows = -(-len(chart.panels) // columns)
        width, height = SIZES[columns]
        figure = _Shown(figsize=(width, height * rows * (1 if rows == 1 else 0.8)), layout="constrained")
        FigureCanvasAgg(figure)
        grid = list(np.atleast_1d(figure.subplots(rows, columns)).flat)
        for ax in grid[len(chart.panels) :]:
            ax.remove()
        for ax, panel in zip(grid, chart.panels):
            _panel(ax, panel)
        if chart.note:
            figure.suptitle(chart.note, color=COLORS[AVOIDED], fontsize=10, wrap=True)
        handles = _legend(chart)
        if handles:
            figure.legend(handles=handles, loc="outside right upper", frameon=False, fontsize=9)
        return figure


def color_of(name: str) -> Any:
    """The color that a mark names."""
    if name in COLORS:
        return COLORS[name]
    cmap, _, position = name.partition(":")
    return colormaps[cmap](float(position))


def _panel(ax: Axes, panel: Panel) -> None:
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(True, which="major", color="#e6e6e6", lw=0.7)
    ax.set_axisbelow(True)
    for axis, log in (("x", panel.x.log), ("y", panel.y.log)):
        if log:
            getattr(ax, f"set_{axis}scale")("log")
    for order, (_, same) in enumerate(itertools.groupby(panel.marks, _collection)):
        _marks(ax, list(same), 2 + order / 1000)
    ax.set_xlabel(panel.x.label)
    ax.set_ylabel(panel.y.label)
    if panel.title:
        ax.set_title(panel.title, fontsize=10.5, loc="left")
    for axis, of in ((ax.xaxis, panel.x), (ax.yaxis, panel.y)):
        _ticks(ax, axis, of)


def _collection(mark: Mark) -> Any:
    """Equal for neighbors that are drawn as one collection: one for every scale takes most of the time."""
    return (mark.symbol, mark.size) if mark.kind == "points" and mark.scale else id(mark)


def _marks(ax: Axes, marks: list[Mark], order: float) -> None:
    """Draws one mark, or the points of several."""
    mark = marks[0]
    if mark.kind == "points":
        x, y = (np.concatenate([np.asarray(getattr(m, k), float) for m in marks]) for k in "xy")
        colors = [to_rgba(color_of(m.color)) for m in marks]
        each = np.repeat(colors, [np.size(m.x) for m in marks], axis=0) if len(set(colors)) > 1 else colors[:1]
        if x.size:
            ax.scatter(x, y, s=mark.size**2, zorder=order, **_point_style(mark.symbol, each))
        return
    color = color_of(mark.color)
    x, y, low, high = (np.asarray(v, float) for v in (mark.x, mark.y, mark.low, mark.high))
    if mark.kind == "line":
        ax.plot(x, y, color=color, lw=mark.width, ls=DASHES[mark.dash], zorder=order)
    elif mark.kind == "band":
        ax.fill_between(x, low, high, color=color, alpha=0.13, lw=0, zorder=order)
    elif mark.kind == "span":
        ax.vlines(x, low, high, color=color, lw=mark.width, zorder=order)
    elif mark.kind == "hspan":
        ax.hlines(y, low, high, color=color, lw=mark.width, zorder=order)
    elif mark.kind == "bar":
        ax.bar(x, high - low, mark.width, low, color=color, edgecolor="white", lw=0.5, zorder=order)
    else:
        lines = ax.contour(x, y, np.asarray(mark.z, float), levels=12, colors=[color], linewidths=0.9, zorder=order)
        ax.clabel(lines, fontsize=8, fmt=ticks.plain)


def _point_style(symbol: str, colors: Any) -> dict[str, Any]:
    style: dict[str, Any] = {"marker": SYMBOLS[symbol], "linewidths": 0.5}
    if symbol == "open":
        return style | {"facecolors": "white", "edgecolors": colors, "linewidths": 1.1}
    if symbol in ("cross", "tick"):
        return style | {"c": colors, "linewidths": 1.6}
    if symbol == "diamond":
        return style | {"c": colors, "edgecolors": COLORS[AVOIDED], "linewidths": 1.3}
    return style | {"c": colors, "edgecolors": "white"}


def _ticks(ax: Axes, axis: Any, of: Axis) -> None:
    limits = ax.set_xlim if axis is ax.xaxis else ax.set_ylim
    if of.limits is not None:
        limits(*of.limits)
    if of.kind == "names":
        axis.set_major_locator(ticker.FixedLocator(list(range(len(of.names)))))
        axis.set_major_formatter(ticker.FixedFormatter(list(of.names)))
        limits(-0.6, len(of.names) - 0.4)
        if axis is ax.yaxis:
            ax.invert_yaxis()
        return
    low, high = axis.get_view_interval()
    if of.log and high / low >= FEW_DECADES:
        axis.set_major_locator(ticker.LogLocator(numticks=9))
        axis.set_minor_formatter(ticker.NullFormatter())
    elif of.log and high / low >= NARROW:
        axis.set_major_locator(ticker.LogLocator(subs=(1.0, 2.0, 5.0)))
        axis.set_minor_locator(ticker.NullLocator())
    else:
        axis.set_major_locator(ticker.MaxNLocator(7 if axis is ax.yaxis else 5, steps=[1, 2, 2.5, 5, 10]))
        axis.set_minor_locator(ticker.NullLocator())
    axis.set_major_formatter(ticker.FuncFormatter(lambda value, _: ticks.text_of(of.kind, value)))


def _legend(chart: Chart) -> list[Any]:
    """One entry per name; of very many scales some. A line and points of one name are one entry."""
    named: dict[str, list[Mark]] = {}
    for panel in chart.panels:
        for mark in panel.marks:
            if mark.name:
                named.setdefault(mark.name, []).append(mark)
    scales = [name for name, marks in named.items() if marks[0].color.startswith("viridis")]
    if len(scales) > MAX_SCALES:
        kept = {scales[i] for i in np.linspace(0, len(scales) - 1, MAX_SCALES).round().astype(int)}
        named = {name: marks for name, marks in named.items() if name not in scales or name in kept}
    return [_handle(name, marks) for name, marks in named.items()]


def _handle(name: str, marks: list[Mark]) -> Any:
    first, color = marks[0], color_of(marks[0].color)
    label = f"\u200b{name}" if name.startswith("_") else name  # matplotlib hides labels that begin with one
    if first.kind in ("band", "bar"):
        return Patch(color=color, alpha=0.13 if first.kind == "band" else 1, label=label)
    style: dict[str, Any] = {"color": color, "ls": "", "label": label}
    for mark in marks:
        if mark.kind == "points":
            style |= {"marker": SYMBOLS[mark.symbol], "ms": 9 if mark.symbol in ("star", "tick") else 5}
            if mark.symbol == "open":
                style |= {"mfc": "white"}
            elif mark.symbol == "diamond":
                style |= {"mec": COLORS[AVOIDED], "mew": 1.3}
            elif mark.symbol in ("cross", "tick"):
                style |= {"mew": 1.6}
        else:
            style |= {"ls": DASHES[mark.dash], "lw": 1.8}
    return Line2D([], [], **style)
