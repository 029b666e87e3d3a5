"""Checks of the design: can these runs answer the question at all?"""

from __future__ import annotations

import numpy as np

from scaling_jax.analysis.checks.base import CANNOT_TELL, FAIL, PASS, WARN, Check, Evidence, cells, of_nd
from scaling_jax.text import listed, plural, short

COLLINEAR, CORRELATED = 0.98, 0.9
FEW_BEYOND, SOME_BEYOND = 2, 4  # cells beyond the number of parameters
MANY_TRUNKS = 20  # independent trunks from which the scatter of neighbors shows the noise
EXPLAINED = 3.0  # times the noise
OUTSIDE = 1.2  # times beyond the sizes that were trained
MIN_INSIDE = 0.5  # share of the ladder's compute (in logs) where the optimum should be inside the ladder
WIDE, USELESS = 25.0, 100.0  # upper over lower end of the interval of N* at the first target


def enough_runs(e: Evidence) -> Check:
    """More points than parameters, by a margin."""
    name = "enough runs for the law"
    if e.fit is None:
        return Check(name, FAIL, e.no_fit, decisive=True)
    free = len(e.fit.free)
    detail = f"{plural(cells(e), 'distinct point')} for {plural(free, 'parameter')}"
    if cells(e) < free + FEW_BEYOND:
        return Check(name, FAIL, f"{detail}: too few to judge the fit; add runs or fix parameters", decisive=True)
    if cells(e) < free + SOME_BEYOND:
        return Check(name, WARN, f"{detail}: too few to judge the fit; add runs")
    return Check(name, PASS, detail)


def apart(e: Evidence) -> Check:
    """ln N and ln D are not collinear."""
    name, chosen = "N and D vary apart", e.runs.chosen
    if not e.runs.has_compute:
        return Check(name, CANNOT_TELL, "the runs do not have both")
    log_n, log_d = np.log(chosen.N), np.log(chosen.D)
    if len(log_n) < 3 or np.ptp(log_n) == 0 or np.ptp(log_d) == 0:
        return Check(name, FAIL if len(log_n) else CANNOT_TELL, "N or D does not vary over the runs", decisive=True)
    r = float(np.corrcoef(log_n, log_d)[0, 1])
    ratio = float(np.exp(np.ptp(log_d - log_n)))
    detail = f"ln N and ln D correlate at {r:.2f}"
    if abs(r) >= COLLINEAR:
        line = f" (D = {short(float(np.exp((log_d - log_n).mean())))} N throughout)" if ratio < 1.5 else ""
        detail += f"{line}: their exponents cannot be separated; train each scale on several budgets"
        return Check(name, FAIL, detail, decisive=True)
    if abs(r) >= CORRELATED:
        detail += f", over {CORRELATED}: their exponents are hard to separate; cross budgets and scales"
        return Check(name, WARN, detail)
    return Check(name, PASS, detail)


def seeds(e: Evidence) -> Check:
    """Seeds show the noise."""
    name, runs = "the noise is known", e.runs
    if runs.noise is not None:
        detail = f"seeds differ by {runs.noise:.2%} (one standard deviation, from {runs.noise_runs} runs)"
        repeated = runs.chosen.groupby("scale").seed.nunique() > 1
        if repeated.sum() == 1 and len(repeated) > 2:
            where = f"at {repeated.idxmax()} alone: the scatter of other scales is unknown; add seeds there"
            return Check(name, WARN, f"{detail}, {where}")
        return Check(name, PASS, detail)
    if runs.chosen.trunk.nunique() >= MANY_TRUNKS and runs.chosen.N.nunique() >= MANY_TRUNKS:
        return Check(name, CANNOT_TELL, "one seed each; the scatter of many sizes about the law is used instead")
    detail = (
        "one seed per run: the scatter between seeds is unknown, and a lucky or unlucky scale cannot be seen; add seeds"
    )
    return Check(name, WARN, detail)


def explained(e: Evidence) -> Check:
    """The law explains far more than noise."""
    name = "the law explains more than noise"
    if e.linearized is None:
        return Check(name, CANNOT_TELL, "no law of a positive loss")
    spread = float(np.std(np.log(e.linearized.predicted)))
    left = 1.4826 * float(np.median(np.abs(e.linearized.residuals)))  # a few wild runs are another check's
    noise = e.linearized.noise.total if e.runs.noise is not None else left
    detail = f"the law varies by {spread:.2%} over the runs, the noise is {noise:.2%}"
    if spread < EXPLAINED * max(noise, left) or spread < 1e-6:
        inputs = " and ".join(e.fit.law.inputs) if e.fit is not None else "its inputs"
        if left > EXPLAINED * noise:
            detail += f", and the runs miss it by {left:.2%}: another law, or scales that are off"
        else:
            detail += f": {e.runs.names.get('y', 'y')} hardly depends on {inputs} beyond noise; widen the ladder"
        return Check(name, FAIL, detail, decisive=True)
    return Check(name, PASS, detail)


def converged(e: Evidence) -> Check:
    """The optimum of the fit is certified."""
    name, fit = "the fit converged", e.fit
    if fit is None:
        return Check(name, CANNOT_TELL, "no law was fitted")
    state = "converged" if fit.converged else "did NOT converge"
    detail = f"the fit {state}: objective {fit.objective_value:.6g}, {fit.certificate}"
    return Check(name, PASS if fit.converged else FAIL, detail, decisive=True)


def identified(e: Evidence) -> Check:
    """No term has vanished from the law, and N* is known to a useful factor."""
    name, fit = "the frontier is determined", e.fit
    if fit is None or not of_nd(e):
        return Check(name, CANNOT_TELL, "no law with a frontier")
    if e.no_frontier:
        return Check(name, CANNOT_TELL, e.no_frontier)
    bad = [k for k, v in fit.params.items() if k in ("A", "B", "alpha", "beta") and not 1e-300 < abs(v) < 1e100]
    bad += [k for k in fit.at_bounds if k in ("A", "B", "alpha", "beta") and k not in bad]
    if bad:
        ends = ", ".join(f"{k} = {fit.params[k]:.3g}" for k in bad)
        detail = f"{ends}: a term has vanished from the law, so the runs do not determine the split of compute"
        return Check(name, FAIL, detail, decisive=True)
    found = e.forecast_frontier(e.targets[0])
    if found is not None and not found.answer:
        return Check(name, FAIL, "; ".join(map(str, found.reasons)), decisive=True)
    row = e.frontier[e.frontier.beyond > 1.001].head(1)
    if not len(row) or not np.isfinite(row.N_low.iloc[0]):
        finite = len(e.frontier) > 0 and bool(np.isfinite(e.frontier[["N", "D"]]).all(axis=None))
        return Check(name, CANNOT_TELL if finite else FAIL, "no interval of N* at a target", decisive=True)
    low, high = float(row.N_low.iloc[0]), float(row.N_high.iloc[0])
    detail = f"at {row.C.iloc[0]:.2e} FLOPs N* is between {short(low)} and {short(high)}"
    if not (low > 0 and high / low < USELESS):
        return Check(
            name, FAIL, f"{detail}: the runs do not determine it; widen the ladder or add seeds", decisive=True
        )
    if high / low > WIDE:
        return Check(name, WARN, f"{detail}: a wide interval; widen the ladder or add seeds")
    return Check(name, PASS, detail)


def inside(e: Evidence) -> Check:
    """Within the ladder's own compute the optimum is among the sizes and budgets that were trained."""
    name = "the optimum is inside the ladder"
    inner = e.curve[e.curve.beyond <= 1.001] if len(e.curve) else e.curve
    if not len(inner):
        return Check(name, CANNOT_TELL, e.no_frontier or "no frontier")
    chosen, faults = e.runs.chosen, {}
    good = np.ones(len(inner), bool)
    for key, noun in (("N", "scales"), ("D", "budgets")):
        low, high = float(chosen[key].min()), float(chosen[key].max())
        below, above = inner[key] < low / OUTSIDE, inner[key] > high * OUTSIDE
        good &= ~(below | above).to_numpy()
        for mask, side, more in ((below, "below the smallest", "smaller"), (above, "above the largest", "larger")):
            if mask.any():
                faults[(int(mask.sum()), key)] = (inner[mask], f"{side} {noun[:-1]}", f"add {more} {noun}")
    share = float(np.mean(good))
    if share >= MIN_INSIDE:
        return Check(name, PASS, f"over {share:.0%} of the ladder's compute (in logs)")
    (_, key), (rows, side, way) = max(faults.items())
    row = rows.iloc[len(rows) // 2]
    detail = f"already at {row.C:.3g} FLOPs {key}* = {short(row[key])} is {side}: {way}"
    return Check(name, FAIL if share == 0 else WARN, detail, decisive=share == 0)


def bracketed_sweeps(e: Evidence) -> Check:
    """IsoFLOP curves have their minimum inside."""
    name, sweeps = "IsoFLOP minima are bracketed", e.isoflop
    if not len(sweeps.points) or sweeps.interpolated or sweeps.points.budget.nunique() < 2:
        return Check(name, CANNOT_TELL, "no budgets of compute that scales share")
    edges = []
    noise = e.runs.noise or 0.0
    for budget, rows in sweeps.points.groupby("budget"):
        rows = rows.sort_values("N")
        best = int(np.argmin(rows.y.to_numpy()))
        inner = rows.y.to_numpy()[1:-1]
        if best in (0, len(rows) - 1) and len(inner) and inner.min() > rows.y.iloc[best] * (1 + 2 * noise):
            edges.append((budget, "smallest" if best == 0 else "largest"))
    count = sweeps.points.budget.nunique()
    if len(edges) > count / 2:
        sides = listed(f"{budget:.2e} FLOPs at the {side}" for budget, side in edges)
        return Check(
            name, WARN, f"{len(edges)} of {count} curves are lowest at an end ({sides}): extend them on that side"
        )
    return Check(name, PASS, f"{count - len(edges)} of {count}")
