"""What is wrong or unsure about a fit, in plain sentences."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from scaling_jax.fitting.inference.influence import influence
from scaling_jax.fitting.inference.linearized import Linearized
from scaling_jax.fitting.laws.registry import find_law
from scaling_jax.fitting.solution import Solution
from scaling_jax.fitting.solver._search import is_rare

# Correlation of two inputs' logarithms above which their effects cannot be told apart, or hardly.
SAME_INPUT, SIMILAR_INPUT = 0.99, 0.95
# Relative standard error from which a parameter is not determined.
UNDETERMINED = 0.5
# Mean residual over mean distance of y from its median above which a law is no better than a constant.
UNEXPLAINED = 0.9
# Clusters below which their scatter says little about noise (Cameron, Gelbach & Miller 2008).
FEW_CLUSTERS = 10
# A bend is named when its t statistic and its size (in ln y, end to middle) exceed these.
BEND_T, BEND_SIZE = 4.0, 1e-3
# Neighbors along the scale err alike when the sum of products of adjacent residuals exceeds this many times what
# independent signs would give: 1 in 4,000 fits of the right law, with noise of many kinds.
ALIKE = 3.0
# Share of rows with more unique than all tokens from which the two columns look exchanged.
EXCHANGED = 0.5
# What varies by this share of what it is beside is constant to the data.
CONSTANT = 0.05


def warnings(fit: Solution) -> list[str]:
    """Sentences about everything that makes a fit less sure than its numbers look; empty when there is nothing.

    Args:
      fit: a `Fit` with its data.
    """
    linear = fit.linearized
    return [
        *_about_convergence(fit),
        *_about_explained(fit),
        *_about_bounds(fit),
        *_about_inputs(fit),
        *_about_flatness(fit, linear),
        *_about_limits(fit),
        *_about_counts(fit, linear),
        *_about_residuals(fit, linear),
        *_about_influence(fit),
    ]


def search_warnings(fit: Solution) -> list[str]:
    """Sentences on what the search itself found doubtful."""
    c, found = fit.certificate, []
    if c is None:
        return found
    if is_rare(c.agree, c.starts):
        how = f"only {c.agree} of {c.starts} starts reached this optimum"
        if c.agree == 0 and c.moved_agree:
            how = f"no start of {c.starts} reached this optimum, only {c.moved_agree} of {c.moved} moved on from others"
        found.append(f"{how}: there may be a better one (try seed=1, or starts=5000)")
    runaways = [k for k in fit.at_bounds if fit.law.coordinates[k].kind == "log"]
    if runaways:
        ends = ", ".join(f"{k} to {'zero' if fit.at_bounds[k] == 'lower' else 'infinity'}" for k in runaways)
        found.append(f"not identified by these data: {ends}: the optimum lies at the end of its range")
    if c.lower_outside:
        ranges = {k: v for k, v in fit.law.plausible_range.items() if k in fit.free}
        plausible = ", ".join(f"{k} in [{lo:g}, {hi:g}]" for k, (lo, hi) in ranges.items())
        where = ", ".join(f"{k} {c.lower_outside['params'][k]:.4g}" for k in ranges)
        found.append(
            f"a lower objective ({c.lower_outside['value']:.10g}) lies outside the usual range ({plausible}), at "
            f"{where}; the optimum inside it was taken"
        )
    return found


def _about_convergence(fit: Solution) -> Iterator[str]:
    if not fit.converged:
        yield f"NOT CONVERGED: do not use these numbers ({fit.certificate})"


def _about_explained(fit: Solution) -> Iterator[str]:
    """A law that can only fall, fitted to something that rises, ends as a constant: converged, and worth nothing."""
    counts = fit.weights > 0
    y = np.asarray(fit.objective.transform(fit.y[counts]), np.float64)
    around, left = np.abs(y - np.median(y)).mean(), np.abs(fit.residuals[counts]).mean()
    if fit.converged and left > UNEXPLAINED * around > 1e-9:
        yield (
            f"the law explains next to nothing: y lies as far from it ({left:.3g} on average) as from a constant "
            f"({around:.3g}); does y rise where {fit.law.name} can only fall, or is a column mistaken?"
        )


def _about_bounds(fit: Solution) -> Iterator[str]:
    for name, end in fit.at_bounds.items():
        if fit.law.coordinates[name].kind == "log":  # a runaway: the search says so itself
            continue
        bound = fit.law.bounds[name][end == "upper"]
        reason = "the data want it beyond" if np.isfinite(bound) and bound else "its term has left the law"
        yield f"{name} = {fit.params[name]:.4g} is at its {end} bound: {reason}; its interval means nothing"


def _about_inputs(fit: Solution) -> Iterator[str]:
    counts = fit.weights > 0
    columns = {k: np.asarray(fit.data[k])[counts] for k in fit.law.inputs}
    logs = {k: np.log(v) for k, v in columns.items() if np.all(v > 0) and np.ptp(np.log(v)) > 0}
    names = list(logs)
    for i, one in enumerate(names):
        for other in names[i + 1 :]:
            r = float(np.corrcoef(logs[one], logs[other])[0, 1])
            if abs(r) > SIMILAR_INPUT:
                exponents = _exponents_of(fit.law, one, other)
                verb = "can't be told apart" if abs(r) > SAME_INPUT else "are hard to tell apart"
                yield (
                    f"{exponents} {verb}: ln {one} and ln {other} correlate at {r:.3f}; "
                    f"add runs that vary {other} at fixed {one}"
                )

    if {"U", "D"} <= columns.keys():
        more = columns["U"] > columns["D"] * (1 + 1e-6)
        if more.mean() > EXCHANGED:
            yield (
                f"U exceeds D in {more.sum()} of {more.size} rows, where the law counts D alone: U is how many of the "
                "D tokens are different; are the columns exchanged?"
            )


def _exponents_of(law, one: str, other: str) -> str:
    usual = {("N", "D"): ("alpha", "beta"), ("N", "E"): ("a", "b")}.get((one, other), ())
    if usual and all(k in law.params for k in usual):
        return " and ".join(usual)
    return f"the effects of {one} and {other}"


def _about_flatness(fit: Solution, linear: Linearized) -> Iterator[str]:
    """Parameters that the curvature at the optimum leaves open: the first order of a flat profile."""
    if linear.scale < 1e-9:  # exact data determine whatever the law can express
        if linear.condition > 1e7:
            yield f"the optimum is a valley, not a point (condition number {linear.condition:.1g})"
        return
    deviation = np.sqrt(np.diag(linear.covariance()))
    loose = []
    for i, name in enumerate(linear.problem.free):
        step = np.zeros(deviation.size)
        step[i] = deviation[i]
        value = fit.params[name]
        with np.errstate(all="ignore"):
            up, down = (float(linear.params_at(sign * step)[name]) for sign in (1, -1))
        # A parameter that may have either sign can be near zero and well known: it is judged against 1.
        size = max(abs(value), 1.0 if fit.law.bounds[name][0] < 0 else 1e-300)
        relative = max(abs(up - value), abs(value - down)) / size
        if not relative < UNDETERMINED and name not in fit.at_bounds:
            loose.append((name, relative))
    if loose:
        worst = ", ".join(f"{k} (+-{r:.0%})" if r < 10 else f"{k} (any value)" for k, r in loose)
        correlated = _strongest_correlation(linear)
        yield (
            f"not identified by these data: {worst}; condition number {linear.condition:.2g}{correlated}. "
            "Fix one of them (fixed=), use a law with fewer parameters, or add runs; see fit.profile(name)"
        )


def _about_limits(fit: Solution) -> Iterator[str]:
    """Laws whose optimum lies where they become a law of fewer parameters."""
    limit = _LIMITS.get(fit.law.name)
    if limit is None or fit.law.custom or fit.fixed:
        return
    simpler = limit(fit)
    if simpler:
        fewer = len(find_law(simpler).params)
        yield (
            f"{fit.law.name} has become its limit here: {simpler!r} says the same with {fewer} parameters instead of "
            f"{len(fit.params)}"
        )


def _limit_of_sigmoid(fit: Solution) -> str:
    p, counts = fit.params, fit.weights > 0
    tail = p["gain"] > np.ptp(fit.y[counts]) / CONSTANT and p["L0"] < fit.data["loss"][counts].mean()
    return "exponential" if tail else ""


def _limit_of_m4(fit: Solution) -> str:
    """|E0 - y|^alpha is as good as constant beside |y - E|."""
    p, y = fit.params, fit.law(fit.params, fit.data)[fit.weights > 0]
    with np.errstate(all="ignore"):  # y may reach E0 or E
        of_e0, of_e = (np.ptp(np.log(np.abs(y - p[k]))) for k in ("E0", "E"))
    if not p["alpha"] * of_e0 < CONSTANT * of_e:
        return ""
    return "power_offset" if p["E0"] > p["E"] else "saturating"


_LIMITS = {"sigmoid": _limit_of_sigmoid, "m4": _limit_of_m4}


def _strongest_correlation(linear: Linearized) -> str:
    covariance = linear.covariance()
    deviation = np.sqrt(np.diag(covariance))
    with np.errstate(all="ignore"):  # a parameter without effect correlates with nothing
        correlation = np.nan_to_num(np.abs(covariance / np.outer(deviation, deviation))) - np.eye(deviation.size)
    i, j = np.unravel_index(np.argmax(correlation), correlation.shape)
    names = linear.problem.free
    return (
        f", {names[i]} trades against {names[j]} (correlation {correlation[i, j]:.3f})" if correlation.size > 1 else ""
    )


def _about_counts(fit: Solution, linear: Linearized) -> Iterator[str]:
    n, p = int(np.sum(fit.weights > 0)), len(linear.problem.free)
    if n < 2 * p:
        left = "hardly anything is left" if n > p else "the law goes through them all, and nothing is left"
        yield f"{n} points for {p} parameters: {left} to judge the fit by"
    if fit.clusters is not None:
        clusters = np.unique(fit.clusters[fit.weights > 0]).size
        if clusters < FEW_CLUSTERS:
            nothing = " and below the number of parameters they mean nothing" if clusters <= p else ""
            yield (
                f"{clusters} clusters of points for {p} parameters: intervals come from how clusters differ, and from "
                f"so few they are too narrow{nothing}"
            )
    if fit.duplicates:
        yield f"{fit.duplicates} of {fit.n} rows repeat an earlier row exactly: each counts as a run of its own"


def _about_residuals(fit: Solution, linear: Linearized) -> Iterator[str]:
    """Residuals that bend with compute: the law has the wrong shape, and extrapolates by it."""
    compute = fit.law.compute(fit.data)
    name = "C"
    if compute is None:
        if len(fit.law.inputs) != 1:
            return
        (name,) = fit.law.inputs
        compute = np.asarray(fit.data[name], np.float64)
    counts = (fit.weights > 0) & (compute > 0)
    p = len(linear.problem.free)
    if counts.sum() < p + 8 or linear.scale < 1e-9 or np.ptp(np.log(compute[counts])) == 0:
        return
    x = np.log(compute[counts])
    x = 2 * (x - x.min()) / np.ptp(x) - 1
    r = np.clip(linear.residuals[counts], -3 * linear.scale, 3 * linear.scale)
    basis = np.vander(x, 3)
    (bend, _, _), *_ = np.linalg.lstsq(basis, r, rcond=None)
    left = r - basis @ np.linalg.lstsq(basis, r, rcond=None)[0]
    error = np.sqrt(np.sum(left**2) / (r.size - 3) * np.linalg.inv(basis.T @ basis)[0, 0])
    if abs(bend) > max(BEND_T * error, BEND_SIZE):
        direction = "low at both ends and high in the middle" if bend > 0 else "high at both ends and low in the middle"
        unit = f"{abs(bend):.1%}" if fit.objective.log else f"{abs(bend):.3g}"
        yield (
            f"residuals bend with {name}: the law is too {direction} (by {unit} over the range, "
            f"{abs(bend) / error:.1f} standard errors), so it will miss beyond the data; try fitting.select"
        )
    elif fit.clusters is None:  # whose points err alike anyway
        yield from _about_neighbors(fit, linear, compute, name)


def _about_neighbors(fit: Solution, linear: Linearized, scale: np.ndarray, name: str) -> Iterator[str]:
    """Neighbors along the scale that err alike: a wrong shape of any kind, or noise that is not independent."""
    columns = [scale, *(np.asarray(v) for v in fit.data.values()), fit.y, linear.residuals]
    table = np.unique(np.stack(columns, axis=1)[fit.weights > 0], axis=0)  # in order of the scale, without repeats
    r = np.clip(table[:, -1], -3 * linear.scale, 3 * linear.scale)
    r = r - r.mean()
    products = r[1:] * r[:-1]
    # Sizes given, only the signs are random (as in the t statistic of Efron 1969): no kind of noise matters.
    surprise = products.sum() / max(np.sqrt(np.sum(products**2)), 1e-300)
    alike = products.sum() / max(np.sum(r**2), 1e-300)
    size = np.sqrt(max(alike, 0.0)) * r.std()
    smallest = BEND_SIZE if fit.objective.log else BEND_SIZE * np.abs(fit.y).mean()
    if surprise > ALIKE and size > smallest:
        above = np.sign(r[r != 0])
        runs, few = 1 + np.count_nonzero(np.diff(above)), np.count_nonzero(above > 0)
        expected = 1 + 2 * few * (above.size - few) / above.size
        yield (
            f"residuals come in runs along {name}: neighbors err alike (correlation {alike:.2f}; {runs} runs of one "
            f"sign where independent noise has {expected:.0f}), so the law has the wrong shape, or the noise is "
            "shared and intervals are too narrow; try fitting.select"
        )


def _about_influence(fit: Solution) -> Iterator[str]:
    found = influence(fit, refits=0)
    if not found.flagged.size:
        return
    moved = list(found.moves)[int(np.argmax(np.abs(found.shift)))]
    worst = ", ".join(str(int(i)) for i in found.flagged[:8]) + (", ..." if found.flagged.size > 8 else "")
    yield (
        f"{found.flagged.size} of {fit.y.size} points {'is' if found.flagged.size == 1 else 'are'} influential "
        f"(row{'s' * (found.flagged.size > 1)} {worst}; residual up to "
        f"{np.max(np.abs(found.residuals[found.flagged])) / found.scale:.0f} robust standard deviations): without them "
        f"{moved} goes from {found.params[moved]:.4g} to {found.without[moved]:.4g}; see fitting.influence(fit)"
    )
