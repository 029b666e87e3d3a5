"""All checks in the order in which they matter, and the verdict."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from scaling_jax.analysis.checks import curves, design, prediction, residuals, rows
from scaling_jax.analysis.checks.base import FAIL, WARN, Check, Evidence

Verdict = Literal["trust", "caution", "no answer"]
CHECKS: tuple[Callable[[Evidence], Check], ...] = (
    rows.units, rows.one_corpus, rows.one_row_per_run, design.enough_runs, design.apart, design.explained,
    design.converged, design.identified, design.inside, residuals.scales, residuals.outliers, residuals.budgets,
    residuals.shape, residuals.below_frontier, prediction.held_out, residuals.misfit, prediction.leave_one_scale_out,
    design.rates, design.rates_told_apart, rows.repeats, design.seeds, rows.steps, rows.bigger_is_better,
    design.bracketed_sweeps, prediction.approaches_agree, prediction.exponents, rows.embedding, rows.finished,
    rows.one_code, curves.collapse, curves.spikes, curves.gap,
)  # fmt: skip


def run_checks(evidence: Evidence) -> tuple[Check, ...]:
    """Every check, failures first, then warnings; within these in the order in which they matter."""
    found = [check(evidence) for check in CHECKS]
    return tuple(sorted(found, key=_urgency))


def _urgency(check: Check) -> int:
    if check.status == FAIL:
        return 0 if check.decisive else 1
    return {WARN: 2, "cannot tell": 3}.get(check.status, 4)


def verdict(checks: Sequence[Check]) -> tuple[Verdict, list[str]]:
    """(verdict, reasons): "trust" only where no check fails or warns."""
    bad = [check for check in checks if check.status in (FAIL, WARN)]
    reasons = [f"{check.detail[:1].upper()}{check.detail[1:]}" for check in bad]
    if any(check.status == FAIL and check.decisive for check in bad):
        return "no answer", reasons
    return ("caution" if bad else "trust"), reasons
