"""Charts of one fit: the law with its data, cut or as a surface, its residuals, and what is known of its parameters."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from scaling_jax.charts import AVOIDED, GREY, Axis, Chart, Mark, Panel, Symbol, data_color, scale_color
from scaling_jax.fitting.errors import FitError
from scaling_jax.text import short

MAX_LEVELS = 8  # curves of one cut
MARGIN = 1.25  # curves reach this far beyond the data
GRID = 40  # points per side of a surface
MAX_LABELS = 40  # sizes that are distinguished by color; of more, ranges are
RANGES = 10
SAME = 0.03  # in the logarithm: amounts of data equal but for rounding to whole steps
BINS = 30
FAR_TAIL = 4.0  # times the middle half of the resamples: beyond, a few refits would squeeze all others into a bin
SEEN_AND_HELD: tuple[tuple[bool, Symbol, float], ...] = ((False, "circle", 5.5), (True, "diamond", 5.0))


@dataclasses.dataclass(frozen=True)
class Points:
    """The observations behind a fit, as they are named and colored.

    Attributes:
      scale: (n,) what each one is shown as: its scale, or, of very many scales, a range of sizes.
      order: what is shown, in order of size.
      labels: of `order` -> what the legend says.
      runs: (n,) run_ids, or ().
      held: (n,) whether it was held out of the fit.
      ranges: scale -> the range that it is shown in; empty where every scale is shown as itself.
    """

    scale: np.ndarray
    order: tuple[str, ...]
    labels: Mapping[str, str]
    runs: Sequence[str] | np.ndarray
    held: np.ndarray
    ranges: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def shown(self, scale: str) -> str:
        """What a scale is shown as."""
        return self.ranges.get(scale, scale)

    def color(self, scale: str) -> str:
        """The color of a scale."""
        return scale_color(self.order.index(self.shown(scale)), len(self.order))

    @functools.cached_property
    def groups(self) -> dict[tuple[bool, str], np.ndarray]:
        """(held out, shown as) -> positions of its observations."""
        codes = {name: i for i, name in enumerate(self.order)}
        code = np.array([codes.get(name, -1) for name in self.scale], int)
        return {
            (held, name): np.flatnonzero((code == i) & (self.held == held))
            for held, _, _ in SEEN_AND_HELD
            for i, name in enumerate(self.order)
        }

    def runs_at(self, at: np.ndarray) -> list[str]:
        """The run_ids at positions, where there are any."""
        return np.asarray(self.runs, object)[at].tolist() if len(self.runs) else []  # quick for arrays of objects

    def marks(self, x: Any, y: Any, rows: np.ndarray | None = None) -> list[Mark]:
        """Circles in the colors of the scales, diamonds for what was held out; `rows` (n,) bool picks some."""
        x, y, out = np.asarray(x, float), np.asarray(y, float), []
        rows = np.ones(len(self.scale), bool) if rows is None else rows
        for held, symbol, size in SEEN_AND_HELD:
            for scale in self.order:
                at = self.groups[held, scale]
                at = at[rows[at]]
                if at.size:
                    style: dict[str, Any] = {"color": self.color(scale), "scale": scale, "size": size}
                    out.append(Mark("points", x[at], y[at], symbol=symbol, runs=self.runs_at(at), **style))
        # A circle per scale in the legend, also of one that was held out whole; one diamond explains the others.
        shown = {mark.scale for mark in out}
        named = [
            Mark("points", name=self.labels[scale], color=self.color(scale), scale=scale)
            for scale in self.order
            if scale in shown
        ]
        named += out
        if (self.held & rows).any():
            named.append(Mark("points", [], [], name="held out", color=GREY, symbol="diamond", size=5.0))
        return named


def points_of(fit: Any) -> Points:
    """The observations of a fit, colored by their size."""
    name = fit.law.inputs[0]
    first = np.asarray(fit.data[name], float)
    values, of = np.unique(first, return_inverse=True)
    held = np.zeros(first.size, bool)
    many = values.size > MAX_LABELS
    if len(fit.law.inputs) == 1 or (many and values[0] <= 0):
        return Points(np.full(first.size, "data"), ("data",), {"data": "data"}, (), held)
    names = np.array(size_ranges(values) if many else [short(v) for v in values], object)
    order = tuple(dict.fromkeys(names))
    return Points(names[of], order, {k: f"{name} = {k}" for k in order}, (), held)


def size_ranges(sizes: np.ndarray) -> list[str]:
    """The range, such as "20M to 80M", that each of very many positive ascending sizes (n,) is shown in."""
    low, high = np.log(sizes[[0, -1]])
    ends = np.exp(np.linspace(low, high, RANGES + 1))
    named = [f"{short(a)} to {short(b)}" for a, b in itertools.pairwise(ends)]
    return [named[i] for i in np.clip(np.searchsorted(ends, sizes, side="right") - 1, 0, RANGES - 1)]


def is_of_nd(fit: Any) -> bool:
    """True for a law of N and D (and of the unique data)."""
    return {"N", "D"} <= set(fit.law.inputs) <= {"N", "D", "U"}


def law(fit: Any, points: Points, predict: Callable | None = None, label: str = "", y_label: str = "y") -> Chart:
    """Data and curve of a law of one input; `predict(x)` gives (value, low, high) where there are intervals."""
    (name,) = fit.law.inputs
    x, y = np.asarray(fit.data[name], float), np.asarray(fit.y, float)
    wide = x.min() > 0 and x.max() > 10 * x.min()
    grid = (np.geomspace if wide else np.linspace)(x.min(), x.max(), 200)
    marks = []
    if predict is None:
        value = fit.predict({name: grid})
    else:
        value, low, high = predict({name: grid})
        if np.isfinite(low).any():
            marks.append(Mark("band", grid, low=low, high=high, name="interval of the law's mean"))
    marks.append(Mark("line", grid, value, name=fit.law.name, width=1.8))
    kind = "count" if wide else "plain"
    panel = Panel(Axis(label or name, kind, wide), Axis(y_label), (*marks, *points.marks(x, y)))
    return Chart("law", "The law through the runs", "The runs and the law.", (panel,))


def slices(fit: Any, points: Points, labels: tuple[str, str, str] = ("N", "D", "y")) -> Chart:
    """A law of N and D cut two ways: against N at each amount of data, and against D at each size."""
    N, D, y = np.asarray(fit.data["N"], float), np.asarray(fit.data["D"], float), np.asarray(fit.y, float)
    other = {} if "U" not in fit.law.inputs else {"U": float(np.max(fit.data["U"]))}
    levels = data_levels(D)
    nearest = np.searchsorted(np.log(levels[1:] * levels[:-1]) / 2, np.log(D))  # in the logarithm
    sizes, amounts = (np.geomspace(v.min() / MARGIN, v.max() * MARGIN, 80) for v in (N, D))
    left, right = [], []
    for i, level in enumerate(levels):
        color, at = data_color(i, len(levels)), nearest == i
        curve = fit.predict({"N": sizes, "D": level} | other)
        left.append(Mark("line", sizes, curve, color=color, width=1.2, name=f"D = {short(level)}"))
        for held, symbol, dot in SEEN_AND_HELD:
            for scale in points.order:  # each may be hidden
                rows = points.groups[held, scale]
                rows = rows[at[rows]]
                if rows.size:
                    style: dict[str, Any] = {"color": color, "symbol": symbol, "size": dot, "scale": scale}
                    left.append(Mark("points", N[rows], y[rows], runs=points.runs_at(rows), **style))
    for scale in points.order:
        size = float(np.median(N[points.scale == scale])) if (points.scale == scale).any() else np.nan
        if np.isfinite(size) and len(points.order) <= MAX_LABELS:
            curve = fit.predict({"N": size, "D": amounts} | other)
            right.append(Mark("line", amounts, curve, color=points.color(scale), scale=scale, width=1.2))
    right += points.marks(D, y)
    log = bool((y > 0).all())
    low, high = y[np.isfinite(y)].min(), y[np.isfinite(y)].max()
    pad = (high / low) ** 0.06 if log else (high - low) * 0.06
    limits = (low / pad, high * pad) if log else (low - pad, high + pad)
    panels = (
        Panel(Axis(labels[0], "count", True), Axis(labels[2], log=log, limits=limits), tuple(left), "At equal data"),
        Panel(Axis(labels[1], "count", True), Axis("", log=log, limits=limits), tuple(right), "At equal size"),
    )
    caption = (
        "The law cut two ways: against size at each amount of data, and against data at each size. Dots are runs, "
        "lines the law through all of them."
    )
    return Chart("n_and_d", "The law against size and against data", caption, panels)


def data_levels(D: np.ndarray) -> np.ndarray:
    """The budgets that observations share, or, where they have their own, a few between smallest and largest."""
    ordered = np.sort(np.log(D))
    groups = np.split(ordered, np.flatnonzero(np.diff(ordered) > SAME) + 1)
    # A staircase of nearly equal amounts is no budget.
    if len(groups) <= MAX_LEVELS and max(map(np.ptp, groups)) <= 2 * SAME:
        return np.exp([group.mean() for group in groups])
    return np.geomspace(D.min(), D.max(), MAX_LEVELS // 2 + 1)


def surface(fit: Any, points: Points, labels: tuple[str, str, str] = ("N", "D", "y"), frontier: Any = None) -> Chart:
    """Contour lines of the law over N and D with the runs on them, and the frontier (N, D) where one is given."""
    N, D = (np.asarray(fit.data[k], float) for k in "ND")
    other = {} if "U" not in fit.law.inputs else {"U": float(np.max(fit.data["U"]))}
    ends = [(v.min() / MARGIN, v.max() * MARGIN) for v in (N, D)]
    if frontier is not None:
        ends = [(min(low, np.min(f)), max(high, np.max(f))) for (low, high), f in zip(ends, frontier)]
    x, y = (np.geomspace(low, high, GRID) for low, high in ends)
    z = fit.predict({"N": x[None, :], "D": y[:, None]} | other)
    marks = [Mark("surface", x, y, z=z, color=GREY, name="")]
    if frontier is not None:
        marks.append(Mark("line", *frontier, name="compute-optimal", width=2.0))
    marks += points.marks(N, D)
    panel = Panel(Axis(labels[0], "count", True), Axis(labels[1], "count", True), tuple(marks))
    caption = f"Contour lines of the law's {labels[2]} over size and data, with the runs that it is fitted to."
    return Chart("surface", "The law over size and data", caption, (panel,))


def residuals(fit: Any, y: Any, predicted: Any, against: Mapping[str, Any], points: Points) -> Chart:
    """observed / predicted - 1 against each of `against` (label -> values)."""
    off = 100 * (np.asarray(y, float) / np.asarray(predicted, float) - 1)
    panels = []
    for i, (label, values) in enumerate(against.items()):
        values = np.asarray(values, float)
        log = values.min() > 0 and values.max() > 10 * values.min()
        kind = "flops" if "FLOPs" in label else "count" if log else "plain"
        zero = Mark("line", [values.min(), values.max()], [0, 0], color=GREY, dash="dash", width=1.0)
        axis = Axis("observed / predicted - 1 (%)" if i == 0 else "")
        panels.append(Panel(Axis(label, kind, log), axis, (zero, *points.marks(values, off))))
    caption = "How far each run is from the law. A trend with size or budget means that the law has the wrong shape."
    return Chart("residuals", "What the law leaves unexplained", caption, tuple(panels))


def parameters(fit: Any, names: Sequence[str], level: float, boot: Any = None) -> Chart:
    """Bootstrap and profile of parameters: both at most 1, where the value fits best.

    The profile is exp(best - objective) in the units of the threshold of its interval.
    """
    panels, boot = [], boot if boot is not None else fit.resampled
    columns = {} if boot is None else boot.columns()
    for name in names:
        marks = []
        value = fit.params.get(name, fit.exponents.get(name))
        samples = np.asarray(columns.get(name, ()), float)
        samples = samples[np.isfinite(samples)]
        profile = _profile(fit, name, level)
        shown = _range(samples, profile)
        if shown is not None and samples.size > 1 and np.ptp(samples) > 0:
            counts, edges = np.histogram(samples, BINS, range=shown)
            middle = (edges[1:] + edges[:-1]) / 2
            top = counts / max(counts.max(), 1)
            marks.append(
                Mark(
                    "bar",
                    middle,
                    low=np.zeros(BINS),
                    high=top,
                    color=scale_color(9, 12),
                    width=edges[1] - edges[0],
                    name="bootstrap",
                )
            )
        marks += _profile_marks(profile, level, shown)
        marks.append(Mark("line", [value, value], [0, 1.05], color=AVOIDED, dash="dash", width=1.2, name="fitted"))
        panels.append(Panel(Axis(name, limits=shown), Axis("relative" if not panels else ""), tuple(marks)))
    caption = (
        f"Bars are refits on resampled runs, the line is the profile: how well the law can fit with the parameter held "
        f"there. The dotted line cuts the profile at the ends of its {level:.0%} interval."
    )
    return Chart("parameters", "How well the parameters are known", caption, tuple(panels))


def _range(samples: np.ndarray, profile: Any) -> tuple[float, float] | None:
    """What is shown: 99% of the resamples without a far tail, and the ends of the profile's interval."""
    if samples.size < 2 or not np.ptp(samples) > 0:
        return None
    low, left, right, high = np.quantile(samples, [0.005, 0.25, 0.75, 0.995])
    low, high = max(low, left - FAR_TAIL * (right - left)), min(high, right + FAR_TAIL * (right - left))
    if profile is not None:
        reach = high - low
        low = max(min(low, profile.lower), low - reach) if np.isfinite(profile.lower) else low
        high = min(max(high, profile.upper), high + reach) if np.isfinite(profile.upper) else high
    return (float(low), float(high)) if high > low else None


def _profile(fit: Any, name: str, level: float) -> Any:
    try:
        found = fit.profile(name, level)
    except FitError:  # a derived exponent, or too few points
        return None
    rise = found.threshold - found.objective.min()
    return found if np.isfinite(rise) and rise > 0 else None


def _profile_marks(found: Any, level: float, shown: tuple[float, float] | None) -> list[Mark]:
    if found is None:
        return []
    rise = found.threshold - found.objective.min()
    at_end = statistics.NormalDist().inv_cdf((1 + level) / 2) ** 2 / 2
    height = np.exp(-at_end * (found.objective - found.objective.min()) / rise)
    keep = np.isfinite(height) & (height > 1e-3)
    if shown is not None:
        keep &= (found.grid >= shown[0]) & (found.grid <= shown[1])
    if not keep.any():
        return []
    x = found.grid[keep]
    return [
        Mark("line", x, height[keep], name="profile", width=1.8),
        Mark("line", [x[0], x[-1]], [np.exp(-at_end)] * 2, color=GREY, dash="dot", width=1.0),
    ]


def multipliers(comparisons: Mapping[str, Any]) -> Chart:
    """How much less compute each recipe needs than the baseline, against compute; a panel per metric."""
    panels = []
    for metric, found in comparisons.items():
        others, marks = found.names[1:], []
        ends = [found.common_range(k) for k in others]
        one = [min(low for low, _ in ends), 10 * max(high for _, high in ends)]
        marks.append(Mark("line", one, [1.0, 1.0], color=GREY, width=1.0))
        for i, (name, (low, high)) in enumerate(zip(others, ends)):
            C, color = np.geomspace(low, 10 * high, 60), scale_color(i, max(len(others), 2))
            m = found.multiplier(C, name)
            inside = high >= C
            marks.append(Mark("band", C, low=m.low, high=m.high, color=color))
            marks.append(Mark("line", C, m.value, color=color, dash="dash", width=1.0))
            marks.append(Mark("line", C[inside], m.value[inside], color=color, width=2.0, name=name, scale=name))
        y = Axis(f"multiplier over {found.names[0]}", log=True)
        title = f"{metric}: {found.verdict}" if metric else ""
        panels.append(Panel(Axis(f"compute of {found.names[0]}", "flops", True), y, tuple(marks), title))
    level = next(iter(comparisons.values())).level
    value = " or ".join(dict.fromkeys(found.metric for found in comparisons.values()))
    caption = (
        f"How many times more compute the baseline needs for the same {value}, with {level:.0%} intervals; dashed "
        "where one of the two has no runs."
    )
    return Chart("compare", "How much compute a recipe saves", caption, tuple(panels))


def charts(fit: Any) -> dict[str, Callable[[], Chart]]:
    """What a fit with data can show: name -> its chart."""
    if fit.data is None or fit.y is None:
        raise FitError("this fit has no data to draw: it was made from parameters, or loaded; fit again.")
    points = points_of(fit)
    out: dict[str, Callable[[], Chart]] = {}
    if is_of_nd(fit):
        out["n_and_d"] = lambda: slices(fit, points)
        out["surface"] = lambda: surface(fit, points)
    if len(fit.law.inputs) == 1:
        out["law"] = lambda: law(fit, points)
    against = {k: fit.data[k] for k in fit.law.inputs}
    out["residuals"] = lambda: residuals(fit, fit.y, fit.predict(fit.data), against, points)
    out["parameters"] = lambda: parameters(fit, fit.free, 0.9)
    return out


def chart(fit: Any, name: str | None) -> Chart:
    """One of `charts`; None takes the law itself.

    Raises:
      FitError: no such chart, or a fit without data.
    """
    known = charts(fit)
    if name is None:
        return next(iter(known.values()))()
    if name not in known:
        raise FitError(f"plot({name!r}): choose one of {', '.join(known)}.")
    return known[name]()
