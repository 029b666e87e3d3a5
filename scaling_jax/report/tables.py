"""The tables of a report as strings, shared by the terminal and the page."""

from __future__ import annotations

import dataclasses
import math

from scaling_jax.analysis import Analysis
from scaling_jax.analysis.frames import rows_of
from scaling_jax.storage.records import DONE
from scaling_jax.text import short


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
    """Held-out runs, observed and predicted."""
    assert analysis.hold_out is not None
    rows = tuple(
        (str(r.scale), short(r.N), short(r.D), flops(r.C), loss(r.y), loss(r.predicted), interval(r.low, r.high, loss),
         percent(r.error))
        for r in rows_of(analysis.hold_out.rows)
    )  # fmt: skip
    level = f"{analysis.settings.level:.0%} interval"
    return Table(("held-out run", "N", analysis.unit, "FLOPs", "observed", "predicted", level, "error"), rows)


def frontier(analysis: Analysis) -> Table:
    """The loss-minimal split of compute, over the ladder and beyond."""
    rows = tuple(
        (flops(f.C), f"{f.beyond:.3g}x", short(f.N), interval(f.N_low, f.N_high), short(f.D),
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


def runs(analysis: Analysis) -> Table:
    """Every run of the table."""
    chosen = set(analysis.runs.chosen.run_id)
    held = set() if analysis.hold_out is None else set(analysis.hold_out.rows.run_id)
    ordered = analysis.runs.table.sort_values(["N", "C", "lr", "seed"], kind="stable")
    rows = tuple(
        (str(r.run_id), str(r.scale), short(r.N), short(r.D), flops(r.C), rate(r.lr), f"{r.seed}", r.status,
         loss(r.y) if r.status == DONE else "",
         "held out" if r.run_id in held else "fitted" if r.run_id in chosen else "")
        for r in rows_of(ordered)
    )  # fmt: skip
    kinds = tuple("" if r.status == DONE else "lost" for r in rows_of(ordered))
    header = ("run", "scale", "N", analysis.unit, "FLOPs", "rate", "seed", "status", analysis.metric, "used")
    return Table(header, rows, kinds)
