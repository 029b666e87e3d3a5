"""All checks in the order in which they matter, and the verdict."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from scaling_jax.analysis.checks import curves, design, prediction, residuals, rows, tuning
from scaling_jax.analysis.checks.base import CANNOT_TELL, FAIL, WARN, Check, Evidence

Verdict = Literal["trust", "caution", "no answer"]
# Name -> check of it, the most important first.
CHECKS: dict[str, Callable[[Evidence], Check]] = {
    "N, D and C are counts": rows.units,
    "one data set": rows.one_corpus,
    "one row per run": rows.one_row_per_run,
    "enough runs for the law": design.enough_runs,
    "N and D vary apart": design.apart,
    "the law explains more than noise": design.explained,
    "the fit converged": design.converged,
    "the frontier is determined": design.identified,
    "the optimum is inside the ladder": design.inside,
    "every scale fits the others": residuals.scales,
    "no run is an outlier": residuals.outliers,
    "every budget fits the others": residuals.budgets,
    "seeds are repeats": rows.repeats_of_seeds,
    "the law has the right shape": residuals.shape,
    "no run beats the frontier": residuals.below_frontier,
    "predicts held-out runs": prediction.held_out,
    "the law misses by no more than noise": residuals.misfit,
    "no single scale decides N*": prediction.leave_one_scale_out,
    "tuning is bracketed": tuning.bracketed,
    "tuning wins by more than noise": tuning.differs,
    "no repeated data": rows.repeats,
    "the noise is known": design.seeds,
    "enough steps": rows.steps,
    "bigger is better": rows.bigger_is_better,
    "IsoFLOP minima are bracketed": design.bracketed_sweeps,
    "approaches agree": prediction.approaches_agree,
    "the exponent does not depend on conventions": prediction.exponents,
    "embeddings are a small part": rows.embedding,
    "every run finished": rows.finished,
    "one code, one device": rows.one_code,
    "learning curves collapse": curves.collapse,
    "no spikes": curves.spikes,
    "no overfitting": curves.gap,
}
WITHOUT_RUNS = ("enough runs for the law", "every run finished")  # checks of a table where no run finished


def run_checks(evidence: Evidence) -> tuple[Check, ...]:
    """Every check, failures first, then warnings; within these in the order in which they matter."""
    chosen = CHECKS if len(evidence.runs.chosen) else {k: CHECKS[k] for k in WITHOUT_RUNS}
    found = [check(evidence) for check in chosen.values()]
    return tuple(sorted(found, key=_urgency))


def _urgency(check: Check) -> int:
    if check.status == FAIL:
        return 0 if check.decisive else 1
    return {WARN: 2, CANNOT_TELL: 3}.get(check.status, 4)


def verdict(checks: Sequence[Check]) -> tuple[Verdict, list[str]]:
    """(verdict, reasons): "trust" only where no check fails or warns."""
    bad = [check for check in checks if check.status in (FAIL, WARN)]
    reasons = [f"{check.detail[:1].upper()}{check.detail[1:]}" for check in bad]
    if any(check.status == FAIL and check.decisive for check in bad):
        return "no answer", reasons
    return ("caution" if bad else "trust"), reasons
