"""Checks of the extrapolation: blind predictions, dropped scales, other counts, objectives and approaches."""

from __future__ import annotations

import numpy as np

from scaling_jax.analysis.checks.base import CANNOT_TELL, FAIL, PASS, WARN, Check, Evidence, percent
from scaling_jax.analysis.frames import log
from scaling_jax.text import listed, plural, short

MAX_ERROR = 0.03  # of a held-out mean over seeds, beyond its own noise
BIAS, BIAS_SE = 0.01, 2.5  # a common error is named from both on
WORSE_THAN_NAIVE = 1.2
MAX_RANGE = 4.0  # times that N* moves when one scale is left out
MAX_EXPONENT = 0.15
MAX_APART = 4.0  # of N* between approaches


def held_out(e: Evidence) -> Check:
    """The most expensive runs are where a fit without them predicts: within noise, better than naively."""
    name, found = "predicts held-out runs", e.hold_out
    if found is None:
        return Check(name, CANNOT_TELL, e.no_hold_out)
    rows = found.rows
    cells = log(rows.y / rows.predicted).groupby([rows.scale, rows.D], dropna=False).mean()
    detail = f"{plural(len(rows), 'held-out run')}, worst error {found.worst:+.1%}, mean {percent(found.bias)}"
    ids, noise, stderr = tuple(rows.run_id.map(str)), 0.0, 0.0
    if e.linearized is not None:
        noise = e.linearized.noise.total
        stderr = e.linearized.extrapolation(e.runs.chosen.run_id.isin(rows.run_id).to_numpy())
    if not np.isfinite(stderr):
        return Check(name, CANNOT_TELL, f"{detail}, but the runs below the cut leave the law open where these are", ids)
    detail += f" where +-{stderr:.1%} is expected" if stderr else ""
    if abs(found.bias) > max(BIAS, BIAS_SE * stderr):
        side = "all above" if (cells > 0).all() else "all below" if (cells < 0).all() else "on average off"
        detail += f": {side} the prediction"
        return Check(name, FAIL if abs(found.bias) > 2 * BIAS else WARN, detail, ids)
    if abs(found.bias) > MAX_ERROR:
        source = "noise" if e.linearized is not None and e.linearized.noise.freedom else "scatter about the law"
        return Check(name, WARN, f"{detail}: {source} may explain it, but it is too far to rely on", ids)
    if abs(found.worst) > MAX_ERROR + 3 * noise + 2 * stderr:
        return Check(name, FAIL, f"{detail} (limit {MAX_ERROR:.0%} beyond noise)", ids)
    if found.rmsle > max(WORSE_THAN_NAIVE * found.naive, BIAS, BIAS_SE * stderr):
        return Check(name, WARN, f"{detail}: a power law without a floor does better ({found.naive:.1%})", ids)
    return Check(name, PASS, detail, ids)


def leave_one_scale_out(e: Evidence) -> Check:
    """N* does not depend on one scale."""
    name, sizes = "no single scale decides N*", e.without_scale
    finite = {k: v for k, v in sizes.items() if np.isfinite(v) and v > 0}
    own = e.frontier[e.frontier.beyond > 1.001].N.head(1)
    if len(finite) < 3 or not len(own) or not np.isfinite(own.iloc[0]):
        return Check(name, CANNOT_TELL, "too few scales to leave one out")
    ratio = {k: abs(np.log(v / own.iloc[0])) for k, v in finite.items()}
    worst = max(ratio, key=ratio.__getitem__)
    low, high = min(finite.values()), max(finite.values())
    lost = [k for k in sizes if k not in finite]
    detail = f"N* at the first target is {short(low)} to {short(high)} when one scale is left out"
    if lost:
        return Check(name, WARN, f"{detail}, and undetermined without {listed(lost)}", tuple(lost))
    if ratio[worst] > np.log(MAX_RANGE):
        detail += (
            f", {short(finite[worst])} without {worst}, where all give {short(own.iloc[0])}: it hangs on one scale"
        )
        return Check(name, WARN, detail, (worst,))
    return Check(name, PASS, detail)


def exponents(e: Evidence) -> Check:
    """The exponent is the same under every count of N and objective."""
    name = "the exponent does not depend on conventions"
    found = {k: v for k, v in e.exponents.items() if np.isfinite(v)}
    if len(found) < 2:
        return Check(name, CANNOT_TELL, "the law has no exponent a, or nothing else to compare with")
    low, high = min(found, key=found.__getitem__), max(found, key=found.__getitem__)
    detail = f"the exponent a is {found[low]:.3f} ({low}) to {found[high]:.3f} ({high})"
    if found[high] - found[low] > MAX_EXPONENT:
        return Check(name, WARN, f"{detail}: the answer depends on the choice")
    return Check(name, PASS, detail)


def approaches_agree(e: Evidence) -> Check:
    """Laws and IsoFLOP curves lead to about the same N*."""
    name = "approaches agree"
    # The hull is a step function of the scales, and optima between a scale's own budgets are rough: always far off.
    rough = e.approaches.approach.isin(["lowest hull", "IsoFLOP curves (interpolated)"]) if len(e.approaches) else None
    beside = e.approaches if rough is None else e.approaches[~rough]
    beside = beside[np.isfinite(beside.N) & (beside.N > 0)] if len(beside) else beside
    if len(beside) < 2:
        return Check(name, CANNOT_TELL, "only one approach is possible")
    low, high = beside.iloc[int(beside.N.argmin())], beside.iloc[int(beside.N.argmax())]
    detail = f"N* at the largest target is {short(low.N)} by {low.approach} and {short(high.N)} by {high.approach}"
    if high.N > MAX_APART * low.N and not _within(e, float(low.N), float(high.N)):
        return Check(name, WARN, f"{detail}: treat N* as uncertain by this factor")
    return Check(name, PASS, detail)


def _within(e: Evidence, low: float, high: float) -> bool:
    """Returns True where the interval of N* covers both."""
    row = e.frontier.iloc[-1]
    return bool(np.isfinite(row.N_low) and row.N_low <= low and high <= row.N_high)
