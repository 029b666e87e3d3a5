"""Checks of the residuals, ln(observed / predicted): scales, budgets and runs that are off the law, and curvature."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Sequence

import numpy as np
import pandas as pd

from scaling_jax.analysis.checks.base import (
    CANNOT_TELL,
    FAIL,
    MAX_GROUPS,
    PASS,
    WARN,
    Check,
    Evidence,
    direction,
    of_nd,
)
from scaling_jax.analysis.runs import same_budget
from scaling_jax.analysis.shifts import Linearized, Shift, adjusted
from scaling_jax.text import listed, short

# A shift is named when it is this unlikely (over all groups tested) and this large.
UNLIKELY, DOUBTFUL = 0.002, 0.01
SMALL, CLEAR = 0.004, 0.01
MAX_TESTED_RUNS = 40
GROSS, GROSS_SIZE = 12.0, 0.03  # robust deviations, and in ln loss
BELOW = 4.0  # standard errors below the frontier
MISFIT, MISFIT_P = 4.0, 1e-4  # mean square over that of seeds


def scales(e: Evidence) -> Check:
    """Every scale is where the others predict it."""
    if e.linearized is None:
        return Check("every scale fits the others", CANNOT_TELL, "no law of a positive loss")
    scale = e.runs.chosen.scale.to_numpy()
    counts = e.runs.chosen.groupby("scale", sort=False).size()
    names = list(counts.index[counts > 1])
    return _groups(e.linearized, "every scale fits the others", "scale", scale, names, "mis-tuned, or a lucky seed")


def budgets(e: Evidence) -> Check:
    """Every token budget is where the others predict it."""
    name = "every budget fits the others"
    if e.linearized is None or not e.runs.has_compute:
        return Check(name, CANNOT_TELL, "no law of a positive loss in N and D")
    out = None
    for key, noun in (("D", "budget of {} tokens"), ("C", "budget of {} FLOPs")):
        levels = same_budget(e.runs.chosen[key]).to_numpy()
        sizes = e.runs.chosen.groupby(levels).scale.nunique()
        shared = [v for v in sizes.index[sizes >= 2]]
        if 2 < len(shared) <= MAX_GROUPS:
            label = np.array([noun.format(short(v) if key == "D" else f"{v:.2e}") for v in levels], object)
            names = [noun.format(short(v) if key == "D" else f"{v:.2e}") for v in shared]
            found = _groups(e.linearized, name, "the", label, names, "too few steps, or another schedule")
            if found.status in (FAIL, WARN):
                return found
            out = out or found
    return out or Check(name, CANNOT_TELL, "scales do not share budgets")


def _groups(linear: Linearized, name: str, noun: str, label: np.ndarray, names: Sequence[str], cause: str) -> Check:
    if len(names) < 3 or len(names) > MAX_GROUPS:
        return Check(name, CANNOT_TELL, f"{len(names)} groups with several runs")
    found = [linear.shift(label == one) for one in names]
    chances = adjusted(found)
    ranked = sorted(((p, one, s) for p, one, s in zip(chances, names, found) if s is not None), key=lambda r: r[0])
    if not ranked:
        return Check(name, CANNOT_TELL, "too few others to compare with")
    off = [(p, one, s) for p, one, s in ranked if _named(p, s)]
    if not off:
        worst = max(ranked, key=lambda r: abs(r[2].size))
        return Check(name, PASS, f"none is clearly off (largest: {noun} {worst[1]}, {direction(worst[2].size)})")
    # Where one group is off, its neighbors are bent towards it: the least likely is the cause.
    p, one, shift = off[0]
    members = tuple(str(i) for i in linear.chosen.run_id[label == one])
    detail = f"{noun} {one} is {direction(shift.size)} what the others predict (+-{shift.stderr:.1%}): {cause}?"
    return Check(name, FAIL if p < UNLIKELY else WARN, detail, (str(one), *members))


def _named(p: float, shift: Shift) -> bool:
    return (p < UNLIKELY and abs(shift.size) > SMALL) or (p < DOUBTFUL and abs(shift.size) > CLEAR)


def outliers(e: Evidence) -> Check:
    """No single run is far from the law."""
    name, linear = "no run is an outlier", e.linearized
    if linear is None:
        return Check(name, CANNOT_TELL, "no law of a positive loss")
    tested = np.argsort(-np.abs(linear.residuals))[:MAX_TESTED_RUNS]  # the others have smaller residuals
    found = [linear.shift(np.arange(len(linear.residuals)) == i) for i in tested]
    gross = _gross(linear)
    if gross:
        return gross
    if not any(s is not None for s in found):
        return Check(name, CANNOT_TELL, "too few runs to compare with")
    scale = len(linear.residuals) / max(len(tested), 1)
    off = [
        (p * scale, i, s) for p, i, s in zip(adjusted(found), tested, found)
        if s is not None and p * scale < UNLIKELY and abs(s.size) > CLEAR
    ]  # fmt: skip
    if not off:
        return Check(name, PASS, f"none of {len(linear.residuals)} runs")
    rows = [(linear.chosen.iloc[i], s) for _, i, s in sorted(off, key=lambda r: r[0])]
    cut_off = len(rows) == MAX_TESTED_RUNS < len(linear.residuals)
    each = (f"{run.run_id} ({run.scale} on {short(run.D)}) is {direction(s.size)}" for run, s in rows)
    named = listed(each, 3, at_least=cut_off)
    return Check(
        name, WARN, f"{named} what the others predict: check or drop it", tuple(str(r.run_id) for r, _ in rows)
    )


def _gross(linear: Linearized) -> Check | None:
    """Runs so far from a robust fit that a shift test, whose scatter the others of them inflate, is blind to them."""
    typical = 1.4826 * float(np.median(np.abs(linear.residuals)))
    off = np.abs(linear.residuals) > max(GROSS * typical, GROSS_SIZE)
    # Where most runs of a scale or budget are off, that is the fault, not each of its runs.
    for key in ("scale", "D"):
        off &= (pd.Series(off).groupby(linear.chosen[key].to_numpy()).transform("mean") <= 0.5).to_numpy()
    far = np.flatnonzero(off)
    if not len(far) or len(far) > len(linear.residuals) / 4:
        return None
    order = far[np.argsort(-np.abs(linear.residuals[far]))]
    rows = [(linear.chosen.iloc[i], linear.residuals[i]) for i in order]
    named = listed((f"{run.run_id} ({run.scale} on {short(run.D)}) is {direction(r)}" for run, r in rows), 3)
    detail = f"{named} what the others predict: check or drop it"
    return Check("no run is an outlier", FAIL, detail, tuple(str(run.run_id) for run, _ in rows))


def shape(e: Evidence) -> Check:
    """Residuals do not bend or step with size, data or compute."""
    name, linear = "the law has the right shape", e.linearized
    if e.fit is not None and not of_nd(e):  # what the fit says of itself
        doubts = e.fit.warnings
        return Check(name, WARN if doubts else PASS, "; ".join(doubts[:2]) or "the fit has no warnings")
    if linear is None:
        return Check(name, CANNOT_TELL, "no law of a positive loss in N and D")
    logs = {k: _unit(np.log(e.runs.chosen[k].to_numpy(float))) for k in "NDC"}
    columns: list[tuple[str, np.ndarray]] = [(f"bend with {k}", v**2) for k, v in logs.items()]
    columns.append(("bend with N and D together", logs["N"] * logs["D"]))
    for key, noun in (("N", "size"), ("C", "compute")):
        values = np.unique(same_budget(e.runs.chosen[key]))
        if 4 <= len(values) <= 25:
            for low, high in itertools.pairwise(values[1:-1]):
                at = np.sqrt(low * high)
                step = (e.runs.chosen[key].to_numpy(float) > at).astype(float)
                columns.append((f"step between {noun}s {short(low)} and {short(high)}", step))
    found = [linear.shift(column) for _, column in columns]
    chances = adjusted(found)
    sized = [
        (p, what, shift)
        for p, (what, _), shift in zip(chances, columns, found)
        if shift is not None and abs(shift.size) > SMALL
    ]
    chance, what, shift = min(sized, key=lambda entry: entry[0], default=(1.0, "", None))
    if shift is not None and chance < UNLIKELY:
        cause = "a transition in training" if what.startswith("step") else "the law, or tuning that changes with scale"
        detail = f"residuals {what} by {abs(shift.size):.1%} (+-{shift.stderr:.1%}): {cause}; it misses beyond the runs"
        return Check(name, FAIL, detail)
    return Check(name, PASS, "residuals neither bend nor step with size or compute")


def misfit(e: Evidence) -> Check:
    """The law misses by no more than seeds differ."""
    name, linear = "the law misses by no more than noise", e.linearized
    if linear is None:
        return Check(name, CANNOT_TELL, "no law of a positive loss")
    left = float(np.sqrt(np.mean(linear.residuals**2)))
    if not linear.noise.freedom or e.runs.mixed:
        return Check(name, CANNOT_TELL, f"the law misses the runs by {left:.2%}; without seeds the noise is unknown")
    ratio, p = linear.misfit()
    detail = f"the law misses the runs by {left:.2%} where seeds differ by {linear.noise.total:.2%}"
    if ratio > MISFIT and p < MISFIT_P and left > 0.002:
        return Check(name, WARN, f"{detail}: it is the law or the tuning, not noise")
    return Check(name, PASS, detail)


def below_frontier(e: Evidence) -> Check:
    """No run beats the smallest loss that the law allows for its compute."""
    name, linear = "no run beats the frontier", e.linearized
    inner = e.curve[e.curve.beyond <= 1.001] if len(e.curve) else e.curve
    if linear is None or len(inner) < 2:
        return Check(name, CANNOT_TELL, e.no_frontier or "no frontier")
    chosen = e.runs.chosen
    best = np.exp(np.interp(np.log(chosen.C), np.log(inner.C), np.log(inner.law_loss)))
    gap = np.log(chosen.y.to_numpy(float)) - np.log(best)
    cells = pd.Series(gap).groupby([chosen.scale, chosen.D])
    mean, size = cells.transform("mean"), cells.transform("size")
    count = cells.ngroups
    # Of very many points some are far by chance: as unlikely for all of them as any other fault that is named.
    limit = max(BELOW, -statistics.NormalDist().inv_cdf(UNLIKELY / max(count, 1)))
    below = chosen[(mean < -np.maximum(limit * linear.noise.total / np.sqrt(size), CLEAR)).to_numpy()]
    if len(below):
        gaps, points = mean[below.index].to_numpy(), below.groupby(["scale", "D"]).ngroups
        worst = below.iloc[int(gaps.argmin())]
        where, by = f"{worst.scale} on {short(worst.D)}", -np.expm1(gaps.min())
        detail = (
            f"{points} of {count} points are below the smallest loss that the law allows for their compute, {where} by "
            f"{by:.1%}: the frontier is too high there"
        )
        return Check(name, FAIL, detail, tuple(below.run_id.map(str)))
    return Check(name, PASS, "none by more than noise")


def _unit(x: np.ndarray) -> np.ndarray:
    """Scaled to [-1, 1] about the middle."""
    width = np.ptp(x)
    return 2 * (x - x.min()) / width - 1 if width else np.zeros_like(x)
