"""A chart: panels of marks, without a library that draws it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

INK, GREY, AVOIDED = "ink", "grey", "avoided"  # lines and text; guides; held-out and diverged runs
LIGHTEST = 0.88  # the light end of the color maps is unreadable on white

AxisKind = Literal["flops", "count", "plain", "names"]
Symbol = Literal["circle", "diamond", "star", "square", "cross", "tick", "open"]
MarkKind = Literal["line", "points", "band", "span", "hspan", "bar", "surface"]


def scale_color(i: int, count: int) -> str:
    """The color of scale i of `count` in order of size: viridis, dark to light."""
    return f"viridis:{LIGHTEST * i / max(count - 1, 1):.3f}"


def data_color(i: int, count: int) -> str:
    """The color of data budget i of `count`: plasma, dark to light."""
    return f"plasma:{LIGHTEST * i / max(count - 1, 1):.3f}"


@dataclasses.dataclass(frozen=True)
class Axis:
    """An axis.

    Attributes:
      label: shown as it is: no character means anything to a renderer.
      kind: how its numbers are written: "flops" 10¹⁸, "count" 1.5B, "plain" 2.31, "names" the `names` at 0, 1, ...
      log: whether it is logarithmic.
      limits: what is shown; None shows all.
      names: of kind "names".
    """

    label: str
    kind: AxisKind = "plain"
    log: bool = False
    limits: tuple[float, float] | None = None
    names: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Mark:
    """A line, a cloud of points, a band between two curves, intervals, bars or a surface.

    Attributes:
      kind: "span" are vertical intervals from low to high at x, "hspan" horizontal ones at y, "bar" bars from low to
        high around x, "surface" contour lines of z over the grid of x and y.
      x: (n,).
      y: (n,); of a band, span or bar not used.
      name: in the legend; marks of one name share an entry, "" has none.
      color: INK, GREY, AVOIDED, or of `scale_color` or `data_color`.
      scale: which scale of the ladder it shows; "" where it belongs to none. A page hides the scale in every chart.
      runs: (n,) run_ids of the points, () where points are not runs. A page shows them on hover.
      texts: (n,) what a page shows on hover instead.
      low, high: (n,) ends.
      z: (len(y), len(x)) of a surface.
      dash: of lines.
      symbol: of points.
      size: of points, in points (1/72 inch).
      width: of lines in points; of bars in units of x.
    """

    kind: MarkKind
    x: Any = ()
    y: Any = ()
    name: str = ""
    color: str = INK
    scale: str = ""
    runs: Sequence[str] = ()
    texts: Sequence[str] = ()
    low: Any = ()
    high: Any = ()
    z: Any = ()
    dash: Literal["solid", "dash", "dot"] = "solid"
    symbol: Symbol = "circle"
    size: float = 6.0
    width: float = 1.5

    @property
    def num_runs(self) -> int:
        """How many points are runs."""
        return len(self.runs) if self.kind == "points" else 0


@dataclasses.dataclass(frozen=True)
class Panel:
    """Axes with marks; later marks are drawn over earlier ones.

    Attributes:
      x, y: the axes.
      marks: what is drawn.
      title: what is seen, in a few words.
      ratio: relative width.
    """

    x: Axis
    y: Axis
    marks: tuple[Mark, ...]
    title: str = ""

    @property
    def num_runs(self) -> int:
        """How many points of its marks are runs."""
        return sum(mark.num_runs for mark in self.marks)


@dataclasses.dataclass(frozen=True)
class Chart:
    """Panels side by side.

    Attributes:
      name: the stem of its files.
      title: what is seen.
      caption: how to read it, in a sentence or two.
      panels: from left to right.
      note: a warning that belongs to the picture itself.
    """

    name: str
    title: str
    caption: str
    panels: tuple[Panel, ...]
    note: str = ""

    def thinned(self, most: int) -> Chart:
        """With at most about so many runs in a panel, evenly of every scale, which the caption then says."""
        panels, drawn, all_runs = [], 0, 0
        for panel in self.panels:
            count = sum(len(mark.runs) for mark in panel.marks if mark.kind == "points")
            step = -(-count // most)
            if step > 1:
                marks = tuple(
                    _every(mark, step) if mark.kind == "points" and len(mark.runs) else mark for mark in panel.marks
                )
                panel = dataclasses.replace(panel, marks=marks)
                drawn = max(drawn, sum(len(mark.runs) for mark in marks if mark.kind == "points"))
                all_runs = max(all_runs, count)
            panels.append(panel)
        if not drawn:
            return self
        caption = f"{self.caption} {drawn:,} of {all_runs:,} runs are drawn, evenly from every scale."
        return dataclasses.replace(self, panels=tuple(panels), caption=caption)

    def as_json(self) -> dict[str, Any]:
        """In plain JSON types, numbers to six digits, for the page's script."""
        return {
            "name": self.name,
            "title": self.title,
            "caption": self.caption,
            "note": self.note,
            "panels": [
                {
                    "x": _sparse(panel.x),
                    "y": _sparse(panel.y),
                    "title": panel.title,
                    "marks": [_sparse(mark) for mark in panel.marks],
                }
                for panel in self.panels
            ],
        }


def _every(mark: Mark, step: int) -> Mark:
    """Every `step`-th point."""
    return dataclasses.replace(
        mark,
        x=np.asarray(mark.x)[::step],
        y=np.asarray(mark.y)[::step],
        runs=mark.runs[::step],
        texts=mark.texts[::step],
    )


def _sparse(part: Axis | Mark) -> dict[str, Any]:
    """The fields that are not their defaults."""
    out = {}
    for field in dataclasses.fields(part):
        value = getattr(part, field.name)
        if isinstance(value, str | bool | float | int) and value == field.default:
            continue
        if value is None or (not isinstance(value, str | float | int) and np.size(value) == 0):
            continue
        out[field.name] = numbers(value)
    return out


def numbers(values: Any) -> Any:
    """Arrays as lists, numbers to six digits; those that JSON does not have as None."""
    if isinstance(values, np.bool_):
        return bool(values)
    if isinstance(values, str | bool):
        return values
    if isinstance(values, float | int | np.number):
        return _number(float(values))
    if hasattr(values, "dtype") and values.dtype.kind in "fiu" and np.ndim(values) == 1:
        return [_number(v) for v in np.asarray(values, float).tolist()]
    return [v if isinstance(v, str) else numbers(v) for v in values]


def _number(value: float) -> float | int | None:
    if not math.isfinite(value):
        return None
    return int(value) if value.is_integer() and abs(value) < 1e6 else float(f"{value:.6g}")
