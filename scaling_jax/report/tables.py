"""The tables of a report as strings, shared by the terminal and the page."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import numpy as np

from scaling_jax.analysis import Analysis
from scaling_jax.analysis.frames import rows_of
from scaling_jax.analysis.optima import forecast_runs
from scaling_jax.analysis.resources import KINDS, SECONDS_PER_TOKEN
from scaling_jax.text import listed, short, short_bytes, times


@dataclasses.dataclass(frozen=True)
class Table:
    """Column names and rows of cells; `kinds` names rows that stand out: "beyond" the runs, or "lost"."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    kinds: tuple[str, ...] = ()


def flops(value: float) -> str:
    """FLOPs are read by their exponent: 2.60e+13."""
    return f"{value:.2e}"


def interval(low: float, high: float, form=short) -> str:
    """[low, high], or nothing where there is none."""
    return f"[{form(low)}, {form(high)}]" if math.isfinite(low) and math.isfinite(high) else ""


def loss(value: float) -> str:
    """Four digits behind the point of a loss near 1, fewer of larger values."""
    return f"{value:.4f}" if abs(value) < 10 else f"{value:.5g}"


def percent(value: float) -> str:
    """With its sign: +1.80%."""
    return f"{100 * value:+.2f}%"


def rate(value: float) -> str:
    """A learning rate, or nothing where the table has none."""
    return f"{value:g}" if math.isfinite(value) else ""


def scales(analysis: Analysis) -> Table:
    """Each scale's best run."""
    rows = tuple(
        (str(s.scale), short(s.N), str(s.budgets), loss(s.y), short(s.D), short(s.D / s.N), flops(s.C), rate(s.lr))
        for s in rows_of(analysis.runs.scales)
    )
    unit = analysis.unit
    return Table(("scale", "N", "budgets", f"best {analysis.metric}", unit, f"{unit}/N", "FLOPs", "rate"), rows)


def params(analysis: Analysis) -> Table:
    """Parameters and exponents of the law with their intervals."""
    four = "{:.4g}".format
    rows = tuple((p.name, four(p.value), interval(p.low, p.high, four)) for p in rows_of(analysis.params))
    return Table(("", "value", f"{analysis.settings.level:.0%} interval"), rows)


def hold_out(analysis: Analysis) -> Table:
    """Held-out runs, observed and predicted; for laws of anything but N and D by the law's inputs."""
    found = analysis.hold_out
    assert found is not None
    runs = list(rows_of(found.rows))
    if analysis.runs.has_compute:
        header: tuple[str, ...] = ("held-out run", "N", analysis.unit, "FLOPs")
        named = [(str(r.scale), short(r.N), short(r.D), flops(r.C)) for r in runs]
    else:
        header = ("held-out run", *(analysis.runs.names.get(k, k) for k in found.inputs))
        named = [(str(r.run_id), *map(short, each)) for r, *each in zip(runs, *found.inputs.values())]
    rows = tuple(
        (*name, loss(r.y), loss(r.predicted), interval(r.low, r.high, loss), percent(r.error))
        for name, r in zip(named, runs)
    )
    level = f"{analysis.settings.level:.0%} of the mean"  # not of a run, which scatters and drifts besides
    return Table((*header, "observed", "predicted", level, "error"), rows)


def frontier(analysis: Analysis) -> Table:
    """The loss-minimal split of compute, over the ladder and beyond."""
    rows = tuple(
        (flops(f.C), f"{times(f.beyond)}x", short(f.N), interval(f.N_low, f.N_high), short(f.D),
         interval(f.D_low, f.D_high), short(f.D / f.N), loss(f.loss),
         interval(f.loss_low, f.loss_high, "{:.4g}".format))
        for f in rows_of(analysis.frontier)
    )  # fmt: skip
    kinds = tuple("beyond" if f.beyond > 1.01 else "" for f in rows_of(analysis.frontier))
    header = ("FLOPs", "x largest", "N*", "", "D*", "", "D*/N*", f"{analysis.metric}*", "")
    return Table(header, rows, kinds)


def checks(analysis: Analysis) -> Table:
    """Every check with its status."""
    rows = tuple((c.status, c.name, c.detail) for c in analysis.checks)
    return Table(("", "check", ""), rows, tuple(c.status for c in analysis.checks))


def approaches(analysis: Analysis) -> Table:
    """Exponents and sizes by every law and approach."""
    three = "{:.3f}".format
    rows = tuple(
        (a.approach, short(a.N), three(a.a), interval(a.low, a.high, three)) for a in rows_of(analysis.approaches)
    )
    return Table(("by", "N*", "a (N* ~ C^a)", f"{analysis.settings.level:.0%} interval"), rows)


def has_forecast(analysis: Analysis) -> bool:
    """Returns True where the intervals at the first target are those of the forecast."""
    found = analysis.forecast_frontier(analysis.targets[0]) if len(analysis.frontier) else None
    return found is not None and bool(found.answer)


def kind(analysis: Analysis) -> str:
    """What the intervals at the first target cover, and where the loss there comes from."""
    level, law, metric = f"{analysis.settings.level:.0%} intervals", analysis.settings.law, analysis.metric
    if not has_forecast(analysis):
        return f"{level} of the law alone"
    return f"N*, D* of {law}; {metric} and {level} of the forecast (noise, other laws and drift included)"


def answer(analysis: Analysis) -> Table:
    """N*, D* and loss at each target with intervals and what these consist of; no rows without an answer."""
    header = ("FLOPs", "x largest", "N*", "", "D*", "", f"{analysis.metric}*", "", "its interval consists of")
    if not len(analysis.frontier) or analysis.verdict == "no answer":
        return Table(header, ())
    known = analysis.frontier[np.isin(analysis.frontier.C, analysis.targets)]
    rows = tuple(
        (flops(f.C), f"{times(f.beyond)}x", short(f.N), interval(f.N_low, f.N_high), short(f.D),
         interval(f.D_low, f.D_high), loss(f.loss), interval(f.loss_low, f.loss_high, "{:.4g}".format),
         parts(analysis, f.N, f.D))
        for f in rows_of(known)
    )  # fmt: skip
    return Table(header, rows, tuple("beyond" if f.beyond > 1.01 else "" for f in rows_of(known)))


def resources(analysis: Analysis) -> Table:
    """What runs take, as laws of N, and at the best model of the first target."""
    level = f"{analysis.settings.level:.0%} interval"
    shown = len(analysis.frontier) > 0 and analysis.verdict != "no answer"
    best = float(analysis.frontier.N[np.isclose(analysis.frontier.C, analysis.targets[0])].iloc[0]) if shown else 0.0
    rows = []
    for name, law in analysis.resources[0].items():
        if name == SECONDS_PER_TOKEN:
            continue
        if law.law is None:
            rows.append((KINDS[name][0], str(law).partition(": ")[2], "", "", ""))
            continue
        exponent, low, high = law.exponent
        there = [law.show(float(v)) for v in law.at(best)] if shown else []
        far = law.far(float(law.at(best)[0])) if shown else ""
        cells = (there[0], f"[{there[1]}, {there[2]}]" + (f", {far}" if far else "")) if there else ("", "")
        rows.append((KINDS[name][0], f"N^{exponent:.2f}", interval(low, high, "{:.2f}".format), *cells))
    return Table(("resource", "law", level, "at N*", level + " there"), tuple(rows))


def budgets(analysis: Analysis) -> Table:
    """The first target spent in every unit, with the best model of each."""
    found = () if analysis.verdict == "no answer" else analysis.budgets[0]
    hours, memory = (any(math.isfinite(getattr(b, k)) for b in found) for k in ("hours", "memory"))
    more = (("device-hours",) if hours else ()) + (("memory",) if memory else ())
    rows = tuple(
        (b.kind, b.amount, short(b.N), short(b.D), loss(b.loss), interval(b.loss_low, b.loss_high, "{:.4g}".format),
         *((short(b.hours),) if hours else ()), *((short_bytes(b.memory),) if memory else ()))
        for b in found
    )  # fmt: skip
    return Table(("budget of", "amount", "N*", "D*", f"{analysis.metric}*", "", *more), rows)


PARTS = {"run": "scatter of a run", "resampling": "few runs", "laws": "choice of law", "drift": "drift beyond the data"}


def parts(analysis: Analysis, N: float, D: float) -> str:
    """Shares of the forecast's variance, the largest first."""
    if analysis.forecast is None or not has_forecast(analysis):
        return ""
    squares = {k: float(v) ** 2 for k, v in forecast_runs(analysis.forecast, N, D).parts.items()}
    total = sum(squares.values())
    if not total > 0:
        return ""
    ranked = sorted(squares.items(), key=lambda item: -item[1])
    return ", ".join(f"{PARTS[k]} {v / total:.0%}" for k, v in ranked if v / total >= 0.005)


def versions(analysis: Analysis, more: Mapping[str, str]) -> Table:
    """What made the runs and this report."""
    found = dict(analysis.fit.versions) if analysis.fit is not None else {}
    found |= {"data": analysis.dataset_hash or ""} | dict(more)
    for column in ("code_version", "device"):
        values = analysis.runs.table[column].dropna().unique() if column in analysis.runs.table else ()
        if len(values):
            found[column.replace("_", " ")] = listed(values)
    return Table(("", ""), tuple((name, str(value)) for name, value in found.items() if value))
