"""Charts of the fitted laws: cuts, surface, residuals, parameters, approaches side by side, parts of the interval."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from scaling_jax import fitting
from scaling_jax.analysis import Analysis
from scaling_jax.analysis.fits import further_inputs, law_inputs
from scaling_jax.analysis.frames import rows_of
from scaling_jax.analysis.optima import forecast_runs
from scaling_jax.charts import Axis, Chart, Mark, Panel, scale_color
from scaling_jax.fitting import plots
from scaling_jax.report.points import answers, count_label, points_of
from scaling_jax.report.tables import PARTS
from scaling_jax.text import times

MAX_PARAMETERS = 4  # profiles take time


def law(analysis: Analysis) -> Chart:
    """Runs and curve of a law of one input, with the interval of its mean."""
    fitted = analysis.fitted
    assert fitted is not None
    (name,) = fitted.fit.law.inputs

    def predict(inputs: dict) -> Any:
        return fitted.predict(inputs, analysis.settings.level)

    label = analysis.runs.names.get(name, name)
    return plots.law(fitted.fit, points_of(analysis), predict, label, analysis.y_label)


def slices(analysis: Analysis) -> Chart:
    """The law cut at each amount of data and at each size."""
    return plots.slices(analysis.fit, points_of(analysis), _labels(analysis))


def surface(analysis: Analysis) -> Chart:
    """Contour lines of the law over N and D, with the runs and the frontier."""
    curve = analysis.curve
    line = (curve.N.to_numpy(), curve.D.to_numpy()) if len(curve) and answers(analysis) else None
    if line is not None:  # one decade beyond the runs: further out the runs would be a dot in the corner
        near = curve.C.to_numpy() <= 10.01 * float(analysis.runs.chosen.C.max())
        line = line[0][near], line[1][near]
    labels = (*_labels(analysis)[:2], analysis.metric)
    return plots.surface(analysis.fit, points_of(analysis), labels, line)


def _labels(analysis: Analysis) -> tuple[str, str, str]:
    return count_label(analysis), analysis.unit, analysis.y_label


def residuals(analysis: Analysis) -> Chart:
    """observed / predicted - 1 by size and budget: of the hold-out fit where there is one."""
    fit, found, chosen = analysis.fit, analysis.hold_out, analysis.runs.chosen
    assert fit is not None
    used = fit if found is None else found.fitted.fit
    predicted = used.predict(law_inputs(used.law, analysis.runs))
    if analysis.runs.has_compute:
        against = {count_label(analysis): chosen.N, f"{analysis.unit}": chosen.D, "training FLOPs": chosen.C}
    else:
        against = {analysis.runs.names.get(k, k): v for k, v in fit.data.items()}
    chart = plots.residuals(used, chosen.y, predicted, against, points_of(analysis))
    if found is None:
        return chart
    return dataclasses.replace(chart, caption=f"{chart.caption} The law here has not seen the held-out runs.")


def parameters(analysis: Analysis) -> Chart:
    """Bootstrap and profile of the exponents and the floor."""
    fitted = analysis.fitted
    assert fitted is not None
    law_ = fitted.fit.law
    exponents = [k for k in law_.exponents if k not in fitted.fit.free]
    # Exponents and floor first: the coefficients mean little by themselves.
    ranked = sorted(fitted.fit.free, key=lambda k: (k.isupper() and k not in law_.asymptotes, k in law_.asymptotes))
    names = [*exponents[:1], *ranked][:MAX_PARAMETERS]
    return plots.parameters(fitted.fit, names, analysis.settings.level, fitted.bootstrap)


def frontiers_of_laws(analysis: Analysis) -> dict[str, Any]:
    """The other laws that the forecast weighs: name -> its frontier over the range of the chart."""
    forecast, C = analysis.forecast, analysis.curve.C.to_numpy()
    if forecast is None or len(C) < 2:
        return {}
    out = {}
    for name, fit in forecast.fits.items():
        if name == analysis.settings.law or further_inputs(fit.law) or not len(fit.ranges):
            continue
        try:
            out[name] = fit.frontier(np.geomspace(C[0], C[-1], 12), cost=analysis.cost)
        except fitting.FitError:
            continue
    return out


def approaches(analysis: Analysis) -> Chart:
    """N* at the largest target, and its exponent, by every law and approach."""
    rows = list(rows_of(analysis.approaches))
    names = tuple(str(row.approach) for row in rows)
    at, where = np.arange(len(rows)), Axis("", "names", names=names)
    N, a = (np.array([getattr(row, k) for row in rows], float) for k in ("N", "a"))
    low, high = (np.array([getattr(row, k) for row in rows], float) for k in ("low", "high"))
    top = analysis.frontier.iloc[-1]
    own = Mark("hspan", y=[0], low=[top.N_low], high=[top.N_high], width=2.0)
    texts = [f"{name}: N* {n:.3g}, a = {e:.3f}" for name, n, e in zip(names, N, a)]
    known = np.isfinite(low) & np.isfinite(high)
    left = [*([own] if np.isfinite(top.N_low) else []), Mark("points", N, at, size=8, texts=texts)]
    right = [
        Mark("hspan", y=at[known], low=low[known], high=high[known], width=2.0),
        Mark("points", a, at, size=8, texts=texts),
    ]
    ends = np.array([*N, *([top.N_low, top.N_high] if np.isfinite(top.N_low) else [])])
    span = (float(np.nanmin(ends)) / 1.4, float(np.nanmax(ends)) * 1.4)
    grows = np.array([*a[np.isfinite(a)], *low[known], *high[known]])
    pad = 0.05 + 0.05 * float(np.ptp(grows))
    around = (float(grows.min()) - pad, float(grows.max()) + pad)
    panels = (
        Panel(Axis(f"N* at {top.C:.2e} FLOPs", "count", True, span), where, tuple(left), "The best size"),
        Panel(Axis("a in N* ~ C^a", limits=around), where, tuple(right), "How it grows"),
    )
    caption = (
        f"The same runs read in different ways; lines are {analysis.settings.level:.0%} intervals. Where they "
        "disagree, the choice of method is part of the answer."
    )
    return Chart("approaches", "Laws and approaches side by side", caption, panels)


def has_parts(analysis: Analysis) -> bool:
    """Returns True where the forecast says of what its interval consists."""
    return analysis.forecast is not None and len(analysis.frontier) > 0 and answers(analysis)


def interval(analysis: Analysis) -> Chart:
    """The variance of the forecast at the frontier's rows, by where it comes from."""
    assert analysis.forecast is not None
    rows = analysis.frontier[np.isfinite(analysis.frontier.N) & (analysis.frontier.N > 0)]
    found = forecast_runs(analysis.forecast, rows.N.to_numpy(float), rows.D.to_numpy(float))
    names = tuple(f"{times(row.beyond)}x" for row in rows_of(rows))
    total = sum(np.asarray(v, float) ** 2 for v in found.parts.values())
    half = 50 * np.log(np.asarray(found.high, float) / np.asarray(found.low, float))  # percent of y, to first order
    at, base, marks = np.arange(len(names)), np.zeros(len(names)), []
    for i, (key, label) in enumerate(PARTS.items()):
        share = np.divide(np.asarray(found.parts[key], float) ** 2, total, out=np.zeros(len(names)), where=total > 0)
        texts = [f"{label}: {s:.0%} of the variance" for s in share]
        top, color = base + half * share, scale_color(i, len(PARTS))
        marks.append(Mark("bar", at, low=base, high=top, color=color, width=0.6, name=label, texts=texts))
        base = top
    y = f"half width of the {found.level:.0%} interval (%)"
    panel = Panel(Axis("compute over that of the largest run", "names", names=names), Axis(y), tuple(marks))
    caption = (
        f"How uncertain the {analysis.metric} of a run on the frontier is, and why: each bar is divided as the "
        "variances of its parts."
    )
    return Chart("interval", "What the interval consists of", caption, (panel,))
