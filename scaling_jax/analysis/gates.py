"""What a careful reader would check before believing the frontier, said in plain words."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import pandas as pd

from scaling_jax import fitting
from scaling_jax.analysis.fits import HoldOut
from scaling_jax.analysis.runs import ONE_EPOCH, Runs
from scaling_jax.storage.records import DIVERGED, DONE, FAILED
from scaling_jax.text import short

MAX_CORRELATION = 0.6
MAX_HOLD_OUT_ERROR = 0.03
MAX_MISFIT = 3.0
OUTSIDE = 1.2
MAX_EPOCHS = 4.0  # Muennighoff et al. 2023, arXiv:2305.16264: until then repeats are worth almost what new data are


@dataclasses.dataclass(frozen=True)
class Gate:
    """One check. `passed` is None where the runs cannot tell."""

    name: str
    passed: bool | None
    detail: str


def plural(count: int, noun: str) -> str:
    """1 run, 2 runs."""
    return f"{count} {noun}" + ("" if count == 1 else "s")


def correlation(runs: Runs) -> float | None:
    """Pearson's r of ln N and ln D over the fitted runs; None where one of them does not vary."""
    log_n, log_d = np.log(runs.chosen.N), np.log(runs.chosen.D)
    if len(log_n) < 3 or np.ptp(log_n) == 0 or np.ptp(log_d) == 0:
        return None
    return float(np.corrcoef(log_n, log_d)[0, 1])


def gates(runs: Runs, fit, hold_out: HoldOut | None, why_not: str) -> tuple[Gate, ...]:
    """All checks, in the order in which they matter.

    Args:
      runs: of the study.
      fit: the law fitted to all of them, or None.
      hold_out: its prediction of the held-out runs, or None.
      why_not: why there is none.
    """
    return tuple(_gates(runs, fit, hold_out, why_not))


def _gates(runs: Runs, fit, hold_out: HoldOut | None, why_not: str) -> Iterator[Gate]:
    lost = {s: runs.of_status(s) for s in (DIVERGED, FAILED)}
    named = "; ".join(f"{len(rows)} {s} ({_listed(rows)})" for s, rows in lost.items() if len(rows))
    yield Gate("every run finished", not named, named or plural(runs.counts[DONE], "run"))

    r = correlation(runs)
    if r is None:
        yield Gate("N and D vary apart", None, "N or D does not vary over the runs")
    else:
        detail = f"ln N and ln D correlate at {r:.2f}"
        if abs(r) >= MAX_CORRELATION:
            detail += f", over {MAX_CORRELATION}: their exponents are hard to tell apart; cross budgets and scales"
        yield Gate("N and D vary apart", abs(r) < MAX_CORRELATION, detail)

    if "epochs" in runs.chosen:
        yield _repeats(runs, fit)

    scales = runs.scales
    if len(scales) < 2:
        yield Gate("bigger is better", None, plural(len(scales), "scale"))
    else:
        pairs = list(zip(scales[:-1].itertuples(), scales[1:].itertuples()))
        worse = [(a, b) for a, b in pairs if b.y_longest >= a.y_longest]
        # On fewer tokens a larger scale may well be worse: that is the frontier, not a fault.
        faults = [(a, b) for a, b in worse if b.longest >= a.longest]
        named = [f"{b.scale} {b.y_longest:.4g} after {a.scale} {a.y_longest:.4g}" for a, b in faults or worse]
        detail = "the best loss falls with every scale, at its largest budget"
        if worse:
            detail = f"not at its largest budget: {_first(named)}" + ("" if faults else ", but on fewer tokens")
        yield Gate("bigger is better", False if faults else None if worse else True, detail)

    if runs.rates < 2:
        yield Gate("rates bracketed", None, "one learning rate per scale: how far from its best is not known")
    else:
        detail = "; ".join(_pinned(runs))
        yield Gate("rates bracketed", not runs.pinned, detail or "no scale's best rate is always at the edge")

    if fit is not None:
        yield Gate("the fit converged", bool(fit.converged), _certified(fit))
    if hold_out is None:
        yield Gate("predicts what it has not seen", None, why_not)
    else:
        detail = f"worst error {hold_out.worst:+.1%} on {plural(len(hold_out.rows), 'held-out run')}"
        passed = abs(hold_out.worst) <= MAX_HOLD_OUT_ERROR
        yield Gate("predicts what it has not seen", passed, f"{detail} (limit {MAX_HOLD_OUT_ERROR:.0%})")


def _repeats(runs: Runs, fit) -> Gate:
    name = "no data seen again"
    if runs.repeated is None:
        return Gate(name, True, "every run stays within one epoch")
    again = int((runs.chosen.epochs > ONE_EPOCH).sum())
    said = f"{plural(again, 'run')} of {len(runs.chosen)} go through the data up to {runs.repeated:.3g} times"
    if fit is not None and "U" in fit.law.inputs:
        return Gate(name, True, f"{said}; the law weighs repeats")
    if runs.repeated <= MAX_EPOCHS * ONE_EPOCH:
        return Gate(name, None, f"{said}, and D counts that as new data: nearly true up to {MAX_EPOCHS:g}")
    return Gate(name, False, f"{said}, and D counts that as new data: set fit.law=data_constrained, or get more data")


def _pinned(runs: Runs) -> Iterator[str]:
    """One sentence per thing said, with the scales it is said of."""
    for said in dict.fromkeys(runs.pinned.values()):
        scales = [scale for scale, other in runs.pinned.items() if other == said]
        yield f"{said} ({'every scale' if len(scales) == len(runs.scales) else ', '.join(scales)})"


def _listed(rows: pd.DataFrame) -> str:
    counts = rows.groupby(["scale", "lr"], sort=False, dropna=False).size()
    return _first([f"{scale} rate {lr:g}" + (f" x{n}" if n > 1 else "") for (scale, lr), n in counts.items()])


def _first(items: list[str], limit: int = 4) -> str:
    return ", ".join(items[:limit]) + (f" and {len(items) - limit} more" if len(items) > limit else "")


def _certified(fit) -> str:
    return f"{fit.objective_value:.6g}; {fit.certificate}"


def about_frontier(runs: Runs, frontier: pd.DataFrame) -> list[str]:
    """Where the frontier leaves the sizes that were trained, within the ladder's own compute."""
    out, sizes = [], runs.chosen.N
    for row in frontier[frontier.beyond <= 1.001].itertuples():
        below, above = sizes.min() / row.N, row.N / sizes.max()
        if max(below, above) > OUTSIDE:
            side, more = ("below the smallest", "smaller") if below > 1 else ("above the largest", "larger")
            out.append(f"already at {row.C:.3g} FLOPs N* = {short(row.N)} lies {side} scale: add {more} scales")
    return out[:1]


def about_runs(runs: Runs, fit) -> list[str]:
    """The scatter of repeats against the misfit of the law, and runs of several code versions."""
    out = []
    if runs.noise and fit is not None:
        misfit = float(np.sqrt(np.mean((np.log(runs.chosen.y) - np.log(fit.predict(fit.data))) ** 2)))
        if misfit > MAX_MISFIT * runs.noise:
            out.append(
                f"the law misses the runs by {misfit:.2%} where seeds differ by {runs.noise:.2%}: it is the law or the "
                "tuning, not noise"
            )
    flagged = [] if fit is None else fitting.influence(fit, refits=0).flagged
    if len(flagged):
        rows = zip(flagged, runs.chosen.iloc[flagged].itertuples())
        named = [f"row {i} is {run.scale} on {short(run.D)}" for i, run in rows]
        out.append(f"of the influential points, {_first(named)}")
    versions = runs.chosen.code_version.astype(str).nunique() if "code_version" in runs.chosen else 1
    if versions > 1:
        out.append(f"the runs come from {versions} versions of the code (code_version)")
    return out
