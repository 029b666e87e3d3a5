"""Charts of the runs themselves: learning curves, sweeps of the rate, time and speed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from scaling_jax import fitting
from scaling_jax.analysis import Analysis
from scaling_jax.analysis.frames import log, rows_of
from scaling_jax.analysis.status import DIVERGED, DONE
from scaling_jax.charts import AVOIDED, GREY, Axis, Chart, Mark, Panel
from scaling_jax.fitting.plots import MAX_LABELS
from scaling_jax.fitting.rows import evenly
from scaling_jax.report.points import count_label, points_of

SMOOTHING_BINS = 40
MAX_CURVES = 300
SAME_LENGTH = 0.97  # budgets are rounded to whole steps
MIN_RATES = 3  # of a scale and budget, for an optimum between them
SWEPT = {"lr": "learning rate", "batch_size": "batch size"}


def has_curves(analysis: Analysis) -> bool:
    """Returns True where a fitted run has its learning curve."""
    return analysis.curves is not None and bool(analysis.curves.run_id.isin(analysis.runs.chosen.run_id).any())


def learning_curves(analysis: Analysis) -> Chart:
    """Training loss against tokens, and collapsed: the excess over the floor against the share of the run."""
    assert analysis.curves is not None
    runs, points = analysis.runs, points_of(analysis)
    shown = runs.chosen[runs.chosen.run_id.isin(set(analysis.curves.run_id))]
    shown = shown.sort_values(["N", "D"]).iloc[evenly(len(shown), MAX_CURVES)] if len(shown) > MAX_CURVES else shown
    lost_ids = list(runs.of_status(DIVERGED).run_id)[:MAX_CURVES]
    wanted = analysis.curves[analysis.curves.run_id.isin({*shown.run_id, *lost_ids})]
    wanted = wanted.sort_values("step", kind="stable")
    values = wanted[["step", "tokens", "loss"]].to_numpy(float)
    by_run = {run_id: values[rows] for run_id, rows in wanted.groupby("run_id").indices.items()}
    floor = 0.0 if analysis.fit is None or analysis.metric != "loss" else analysis.fit.params.get("E", 0.0)
    left, right = _curves(shown, by_run, points, float(floor))
    for run_id in lost_ids:
        _, tokens, loss = by_run.get(run_id, np.empty((0, 3))).T
        tokens, loss = tokens[np.isfinite(loss)], loss[np.isfinite(loss)]
        if loss.size:
            text = [f"{run_id} diverged"] * loss.size
            left.append(Mark("line", tokens, loss, color=AVOIDED, dash="dash", width=0.9, texts=text))
            left.append(Mark("points", tokens[-1:], loss[-1:], color=AVOIDED, symbol="cross", texts=text[-1:]))
    if any(mark.symbol == "cross" for mark in left):
        left.append(Mark("points", [], [], color=AVOIDED, symbol="cross", name="diverged"))
    final = analysis.metric == "loss"
    if final:
        rows = runs.chosen.run_id.isin(set(shown.run_id)).to_numpy()
        left += points.marks(runs.chosen.D, runs.chosen.y, rows)
    curves = [np.asarray(mark.y, float) for mark in left if mark.scale and np.size(mark.y)]
    # A diverged loss may rise without end: the others decide what is shown.
    limits = (min(map(np.min, curves)) * 0.97, max(map(np.max, curves)) * 1.03) if curves else None
    panels = [
        Panel(
            Axis(analysis.unit, "count", True),
            Axis("training loss", log=True, limits=limits),
            tuple(left),
            "As they ran",
        )
    ]
    if right:
        label = f"(loss - {floor:.3g}) / its end" if floor else "loss / its end"
        panels.append(Panel(Axis("share of the run"), Axis(label, log=True), tuple(right), "Collapsed"))
    caption = "Learning curves of the fitted runs, trunk and cool-down, averaged over short stretches."
    caption += " Dots are the final validation losses." if final else ""
    caption += " Collapsed, healthy runs coincide (Qiu et al. 2025, arXiv:2507.02119)." if right else ""
    return Chart("learning_curves", "Learning curves", caption, tuple(panels))


def _curves(shown: pd.DataFrame, by_run: dict, points, floor: float) -> tuple[list[Mark], list[Mark]]:
    """(curves against tokens, curves collapsed)."""
    left, right = [], []
    for run in rows_of(shown):
        tokens, loss = smooth(by_run[run.run_id]).T
        style: dict[str, Any] = {"color": points.color(run.scale), "scale": points.shown(run.scale), "width": 1.0}
        left.append(Mark("line", tokens, loss, runs=[str(run.run_id)] * len(loss), **style))
        keep = loss > floor
        if len(loss) > 3 and keep[-1]:
            share, excess = tokens[keep] / tokens[-1], (loss[keep] - floor) / (loss[-1] - floor)
            right.append(Mark("line", share, excess, runs=[str(run.run_id)] * len(share), **style))
    return left, right


def smooth(curve: np.ndarray) -> np.ndarray:
    """Means over stretches: learning-curve points are as noisy as their batches.

    Stretches are equal steps of ln(step) plus the share of the run, each scaled to 1: early they follow the logarithm,
    late none is so long that it would hide a cool-down, or so short that the end is one batch.

    Args:
      curve: (n, 3) step, tokens and loss; points without a finite loss are left out.

    Returns:
      (m, 2) tokens and loss.
    """
    curve = curve[np.isfinite(curve[:, 2])]
    values = curve[:, 1:]
    if len(values) > SMOOTHING_BINS:
        step = np.maximum(curve[:, 0], 1.0)
        position = np.log(step / step[0]) / np.log(step[-1] / step[0]) + step / step[-1]
        bins = np.digitize(position, np.linspace(position[0], position[-1], SMOOTHING_BINS + 1)[1:-1])
        starts = np.flatnonzero(np.diff(bins, prepend=-1))
        values = np.add.reduceat(values, starts) / np.diff(starts, append=len(values))[:, None]
    return values


def _swept(analysis: Analysis) -> list[str]:
    """Columns of which some scale and budget tried several values."""
    done = analysis.runs.table[analysis.runs.table.status == DONE]
    out = []
    for column in SWEPT:
        values = pd.to_numeric(done[column], errors="coerce") if column in done else pd.Series(dtype=float)
        if values.notna().any() and int(values.groupby([done.scale, done.D]).nunique().max()) > 1:
            out.append(column)
    return out


def has_sweeps(analysis: Analysis) -> bool:
    """Returns True where a rate or a batch size was swept."""
    return len(analysis.runs.chosen) > 0 and bool(_swept(analysis))


def sweeps(analysis: Analysis) -> Chart:
    """Loss against what was swept at each scale's longest budget, with the optimum between the values."""
    done = analysis.runs.table[analysis.runs.table.status == DONE]
    points = points_of(analysis)
    longest = done.groupby("scale").D.transform("max")
    panels = []
    for column in _swept(analysis):
        marks, stars = [], []
        scales = analysis.runs.scales.scale
        for scale in scales.iloc[evenly(len(scales), MAX_LABELS)]:
            rows = done[(done.scale == scale) & (done.D / longest > SAME_LENGTH) & (done.y > 0)]
            means = log(rows.y).groupby(rows[column].astype(float)).mean()
            if len(means) < 2:
                continue
            x, y = means.index.to_numpy(float), np.exp(means.to_numpy(float))
            style: dict[str, Any] = {"color": points.color(scale), "scale": points.shown(scale)}
            texts = [f"{scale}, {SWEPT[column]} {v:g}: {analysis.metric} {w:.4g}" for v, w in zip(x, y)]
            marks.append(Mark("line", x, y, width=1.2, **style))
            marks.append(Mark("points", x, y, name=points.labels[points.shown(scale)], texts=texts, **style))
            if (best := optimum(x, y)) is not None:
                text = f"{scale}: lowest at {SWEPT[column]} {best[0]:.3g}"
                stars.append(Mark("points", [best[0]], [best[1]], symbol="star", size=13, texts=[text], **style))
        if stars:
            stars.append(Mark("points", [], [], color=GREY, symbol="star", size=13, name="lowest, between the values"))
        y_axis = Axis(analysis.y_label if not panels else "", log=True)
        panels.append(Panel(Axis(SWEPT[column], log=True), y_axis, (*marks, *stars)))
    caption = (
        "Each scale's longest budget. A star is the lowest point of a parabola in the logarithm through the best value "
        "and its neighbors; a scale without one has its best value at an end of the sweep."
    )
    return Chart("sweeps", "What the sweep found", caption, tuple(panels))


def optimum(x: np.ndarray, y: np.ndarray) -> tuple[float, float] | None:
    """(where, how low) of the parabola in (ln x, ln y) through the lowest of y and its neighbors; None at an end."""
    i = int(np.argmin(y))
    if len(x) < MIN_RATES or i in (0, len(x) - 1):
        return None
    a, b, c = np.polyfit(np.log(x[i - 1 : i + 2]), np.log(y[i - 1 : i + 2]), 2)
    return (float(np.exp(-b / (2 * a))), float(np.exp(c - b * b / (4 * a)))) if a > 0 else None


def has_times(table: pd.DataFrame) -> bool:
    """Returns True where runs have their seconds."""
    return "wall_s" in table and bool((pd.to_numeric(table.wall_s, errors="coerce") > 0).any())


def cost(analysis: Analysis) -> Chart:
    """Speed, time of a step, time of a run, and memory, with their laws."""
    table, points = analysis.runs.chosen, points_of(analysis)
    wall = pd.to_numeric(table.wall_s, errors="coerce").to_numpy(float)
    known = np.isfinite(wall) & (wall > 0)
    N, D, C = (table[k].to_numpy(float) for k in "NDC")
    size = Axis(count_label(analysis), "count", True)
    devices = pd.to_numeric(table.devices, errors="coerce").fillna(1).to_numpy(float) if "devices" in table else 1.0
    speed = (_ratio(D, wall * devices, known), f"{analysis.unit} per second", "Speed of a device")
    shown: dict[str, tuple[Any, str, str]] = {"tokens_per_s": speed}
    if "steps" in table:
        shown["step_s"] = (_ratio(wall, table.steps.to_numpy(float), known), "seconds", "Time of a step")
    for name, label, title in (
        ("memory_bytes", "bytes", "Peak memory of a device"),
        ("checkpoint_bytes", "bytes", "Checkpoint of a run"),
        ("compile_s", "seconds", "Time to compile"),
    ):
        if name in table and pd.to_numeric(table[name], errors="coerce").gt(0).any():
            shown[name] = (pd.to_numeric(table[name], errors="coerce").to_numpy(float), label, title)
    panels = []
    for name, (values, label, title) in shown.items():
        marks = points.marks(N, values, np.isfinite(values) & (values > 0))
        panels.append(Panel(size, Axis(label, "count", True), (*_law_marks(analysis, name), *marks), title))
    marks = points.marks(C, wall, known)
    if known.sum() > 2 and np.ptp(np.log(C[known])) > 1:
        law, ends = fitting.power_law(C[known], wall[known]), np.array([C[known].min(), C[known].max()])
        name = f"seconds ~ C^{law.exponent:.2f}"
        marks.append(Mark("line", ends, law(ends), color=GREY, dash="dash", name=name))
    panels.insert(
        2, Panel(Axis("training FLOPs", "flops", True), Axis("seconds", "count", True), tuple(marks), "Time of a run")
    )
    caption = "Seconds are those of the run's own steps, its share of the trunk included."
    caption += " Dashed are power laws through the medians of the scales, with the interval of one more scale."
    return Chart("cost", "Time and memory", caption, tuple(panels))


def _ratio(above: np.ndarray, below: np.ndarray, known: np.ndarray) -> np.ndarray:
    return np.divide(above, below, out=np.full(len(above), np.nan), where=known)


def _law_marks(analysis: Analysis, name: str) -> list[Mark]:
    """The law of a resource over the scales, with its interval; none where it cannot be told."""
    found = analysis.resources[0].get(name)
    if found is None or found.law is None:
        return []
    N = np.geomspace(found.N[0], found.N[-1], 20)
    value, low, high = found.at(N)
    return [Mark("band", N, low=low, high=high, color=GREY), Mark("line", N, value, color=GREY, dash="dash")]
