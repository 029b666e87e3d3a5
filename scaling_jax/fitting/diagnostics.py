"""Warnings about a fit, in plain sentences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from scaling_jax.fitting.errors import LawError
from scaling_jax.fitting.inference.covariance import t_quantile
from scaling_jax.fitting.inference.influence import influence
from scaling_jax.fitting.inference.linearized import Linearized
from scaling_jax.fitting.laws.base import Law
from scaling_jax.fitting.laws.registry import find_law
from scaling_jax.fitting.rows import mistaken_columns
from scaling_jax.fitting.solution import Solution
from scaling_jax.fitting.solver._problem import Problem
from scaling_jax.fitting.solver._search import is_rare, minimize
from scaling_jax.fitting.solver._starts import candidates

# Correlation of two inputs' logarithms above which their effects are not, or barely, distinguishable.
SAME_INPUT, SIMILAR_INPUT = 0.99, 0.95
# Relative standard error from which a parameter is not determined.
UNDETERMINED = 0.5
# Mean residual over mean distance of y from its median above which a law is no better than a constant.
UNEXPLAINED = 0.9
# Clusters below which their scatter is a poor estimate of the noise (Cameron, Gelbach & Miller 2008).
FEW_CLUSTERS = 10
# Curvature is reported when its t statistic and its size (in ln y, end to middle) exceed these.
BEND_T, BEND_SIZE = 4.0, 1e-3
# Residuals are autocorrelated along the scale when the sum of products of adjacent residuals exceeds this many times
# that of independent signs: 1 in 4,000 fits of the right law, with noise of many kinds.
ALIKE = 3.0
# Rank correlation from which y rises or falls; parameter vectors tried to see which of the two a law can do.
CLEAR_TREND, TRIED = 0.5, 256
# Part of the objective below which another optimum fits far better, and the starts of that second search.
FAR_BETTER, SIGNED_STARTS = 0.5, 12
# Points beyond p + 1 below which bent residuals are judged by an exact t test, at this significance.
FEW_POINTS, BEND_SIGNIFICANCE = 7, 1e-3
# Share of rows with more unique than all tokens from which the two columns look exchanged.
EXCHANGED = 0.5
# Relative variation below which a term is constant to the data.
CONSTANT = 0.05


def warnings(fit: Solution) -> list[str]:
    """Reasons why a fit is less certain than its numbers look, in sentences; empty when there are none.

    Args:
      fit: a `Fit` with its data.
    """
    linear = fit.linearized
    with np.errstate(all="ignore"):  # a vanished term or a derivative beyond float64 has its own sentence
        return [sentence for check in _CHECKS for sentence in check(fit, linear)]


def search_warnings(fit: Solution) -> list[str]:
    """Doubts about the search itself, in sentences."""
    c, found = fit.certificate, []
    if c is None:
        return found
    if is_rare(c.agree, c.starts):
        how = f"only {c.agree} of {c.starts} starts reached this optimum"
        if c.agree == 0 and c.moved_agree:
            how = f"no start of {c.starts} reached this optimum, only {c.moved_agree} of {c.moved} restarts"
        found.append(f"{how}: there may be a better one (try seed=1, or starts=5000)")
    runaways = [k for k in fit.at_bounds if fit.law.coordinates[k].kind == "log"]
    if runaways:
        ends = ", ".join(f"{k} to {'zero' if fit.at_bounds[k] == 'lower' else 'infinity'}" for k in runaways)
        found.append(f"not identified by these data: {ends}: the optimum is at the end of its range")
    if c.lower_outside:
        ranges = {k: v for k, v in fit.law.plausible_range.items() if k in fit.free}
        plausible = ", ".join(f"{k} in [{lo:g}, {hi:g}]" for k, (lo, hi) in ranges.items())
        where = ", ".join(f"{k} {c.lower_outside['params'][k]:.4g}" for k in ranges)
        found.append(
            f"a lower objective ({c.lower_outside['value']:.10g}) is outside the plausible range ({plausible}), at "
            f"{where}; the optimum inside it was taken"
        )
    return found


def _about_convergence(fit: Solution, linear: Linearized) -> Iterator[str]:
    if not fit.converged:
        yield f"NOT CONVERGED: do not use these numbers ({fit.certificate})"


def _about_explained(fit: Solution, linear: Linearized) -> Iterator[str]:
    """A law that can only fall, fitted to something that rises, ends as a constant: converged, and useless."""
    data, y, weights = fit.observed("this diagnostic")
    counts = weights > 0
    target = linear.problem.target[counts]
    around, left = np.abs(target - np.median(target)).mean(), np.abs(linear.residuals[counts]).mean()
    if not (fit.converged and left > UNEXPLAINED * around > 1e-9):
        return
    question = "is a column mistaken, or is there nothing to explain?"
    for name, column in _scales(fit.law, data).items():
        trend, able = _trend(column[counts], y[counts]), _directions(linear, name)
        if trend and able and trend not in able:
            verb, other = ("rise", "fall") if trend > 0 else ("fall", "rise")
            with_what = "" if len(fit.law.inputs) == 1 else f" with {name}"
            question = f"does y {verb}{with_what} where {fit.law.name} can only {other}, or is a column mistaken?"
            break
    yield (
        f"the law explains next to nothing: y is as far from it ({left:.3g} on average) as from a constant "
        f"({around:.3g}); {question}"
    )


def _scales(law: Law, data: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The columns along which y may rise or fall: the inputs of the law."""
    return {k: np.asarray(data[k], np.float64) for k in law.inputs}


def _trend(x: np.ndarray, y: np.ndarray) -> int:
    """1 where y clearly rises with x, -1 where it clearly falls, by rank correlation; else 0."""
    ranks = [np.unique(v, return_inverse=True)[1].astype(float) for v in (x, y)]
    if min(np.ptp(r) for r in ranks) == 0:
        return 0
    correlation = np.corrcoef(ranks[0], ranks[1])[0, 1]
    return 0 if abs(correlation) < CLEAR_TREND else int(np.sign(correlation))


def _directions(linear: Linearized, name: str) -> set[int]:
    """The signs (1 rises, -1 falls) that the law's change along an input takes over its range of parameters."""
    problem = linear.problem
    z = candidates(problem, TRIED, seed=0)
    rng = np.random.default_rng(0)
    either = problem.linear & (problem.lower < 0)  # coefficients that may have both signs
    z[:, either] *= rng.choice((-1.0, 1.0), (len(z), int(either.sum())))
    columns = {k: np.full(9, np.median(v)) for k, v in problem.inputs.items()}
    columns[name] = np.linspace(problem.inputs[name].min(), problem.inputs[name].max(), 9)
    there = problem.with_data(columns, np.ones(9), np.ones(9))
    steps = np.diff(there.evaluate(z, order=0), axis=1)
    size = np.abs(steps).max(axis=1, keepdims=True)
    signs = np.sign(np.where(np.isfinite(steps) & (np.abs(steps) > 1e-9 * size), steps, 0.0))
    return {int(s) for s in np.unique(signs) if s}


def _about_bounds(fit: Solution, linear: Linearized) -> Iterator[str]:
    for name, end in fit.at_bounds.items():
        if fit.law.coordinates[name].kind == "log":  # reported by `search_warnings`
            continue
        bound = fit.law.bounds[name][end == "upper"]
        below = _better_below_zero(fit, linear, name) if name in fit.law.asymptotes and bound == 0 else ""
        if below:
            yield below
            continue
        reason = "the data want it beyond" if np.isfinite(bound) and bound else "the term has vanished"
        yield f"{name} = {fit.params[name]:.4g} is at its {end} bound: {reason}; its interval is meaningless"


def _better_below_zero(fit: Solution, linear: Linearized, name: str) -> str:
    """A sentence where the law with a floor (or ceiling) below zero fits far better; "" where it does not."""
    problem = linear.problem
    signed = Problem.of(fit.law.signed, problem.inputs, problem.y, problem.weights, problem.objective, fit.fixed)
    try:
        z, _ = minimize(signed, fit.seed, SIGNED_STARTS)
    except LawError:  # the law has no finite value there
        return ""
    value, other = float(signed.value(z[None])[0]), signed.params(z)[name]
    if not (other < 0 and value < FAR_BETTER * fit.objective_value):
        return ""
    return (
        f"{name} = 0 is at its lower bound, and {name} = {other:.4g} fits far better (objective {value:.4g}, not "
        f"{fit.objective_value:.4g}): if y may tend to a negative value, fit the law '{fit.law.name}_signed'"
    )


def _about_inputs(fit: Solution, linear: Linearized) -> Iterator[str]:
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

    if mistaken := mistaken_columns(columns):
        yield mistaken
    if {"U", "D"} <= columns.keys():
        more = columns["U"] > columns["D"] * (1 + 1e-6)
        if more.mean() > EXCHANGED:
            yield (
                f"U exceeds D in {more.sum()} of {more.size} rows, where the law counts D alone: U is how many of the "
                "D tokens are different; are the columns exchanged?"
            )


def _exponents_of(law: Law, one: str, other: str) -> str:
    usual = {("N", "D"): ("alpha", "beta"), ("N", "E"): ("a", "b")}.get((one, other), ())
    if usual and all(k in law.params for k in usual):
        return " and ".join(usual)
    return f"the effects of {one} and {other}"


def _about_flatness(fit: Solution, linear: Linearized) -> Iterator[str]:
    """Parameters that the curvature at the optimum does not determine: a flat profile, to first order."""
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
        # A parameter of either sign can be near zero and well determined: its error is relative to 1.
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


def _about_limits(fit: Solution, linear: Linearized) -> Iterator[str]:
    """Laws whose optimum is at the limit where they become a law of fewer parameters."""
    limit = _LIMITS.get(fit.law.name)
    if limit is None or fit.law.custom or fit.fixed:
        return
    simpler = limit(fit)
    if simpler:
        fewer = len(find_law(simpler).params)
        yield (
            f"{fit.law.name} has reduced to a simpler law here: {simpler!r} fits the same with {fewer} "
            f"parameters instead of {len(fit.params)}"
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
        few = "too few degrees of freedom to assess the fit"
        if n <= p:
            few = "the law goes through them all; the fit cannot be assessed"
        yield f"{n} points for {p} parameters: {few}"
    if fit.clusters is not None:
        clusters = np.unique(fit.clusters[fit.weights > 0]).size
        if clusters < FEW_CLUSTERS:
            nothing = "; with no more clusters than parameters they mean nothing" if clusters <= p else ""
            yield (
                f"{clusters} clusters of points for {p} parameters: intervals are estimated from differences between "
                f"clusters, and from so few they are too narrow{nothing}"
            )
    if fit.duplicates:
        yield f"{fit.duplicates} of {fit.n} rows repeat an earlier row exactly: each is counted as a separate run"


def _about_residuals(fit: Solution, linear: Linearized) -> Iterator[str]:
    """Residuals curved along the compute: the law has the wrong shape, and extrapolates it."""
    data, _, weights = fit.observed("this diagnostic")
    compute, name = fit.law.compute(data), "C"
    if compute is None:
        if len(fit.law.inputs) != 1:
            return
        (name,) = fit.law.inputs
        compute = np.asarray(data[name], np.float64)
    counts = (weights > 0) & (compute > 0)
    p, n = len(linear.problem.free), int(counts.sum())
    if n < p + 3 or linear.scale < 1e-9 or np.ptp(np.log(compute[counts])) == 0:
        return
    x = np.log(compute[counts])
    x = 2 * (x - x.min()) / np.ptp(x) - 1
    few = n <= p + FEW_POINTS
    # With few points clipping would hide the bend: their scale is that of the bend itself.
    r = linear.residuals[counts]
    r = r if few else np.clip(r, -3 * linear.scale, 3 * linear.scale)
    basis = np.vander(x, 3)
    coefficients = np.linalg.lstsq(basis, r, rcond=None)[0]
    bend, left = float(coefficients[0]), r - basis @ coefficients
    if few:
        errors, needed = _bend_of_few(linear, counts, x)
    else:
        deviation = np.sqrt(np.sum(left**2) / (n - 3) * np.linalg.inv(basis.T @ basis)[0, 0])
        errors, needed = abs(bend) / max(deviation, 1e-300), BEND_T
    if errors > needed and abs(bend) > BEND_SIZE:
        direction = "low at both ends and high in the middle" if bend > 0 else "high at both ends and low in the middle"
        unit = f"{abs(bend):.1%}" if fit.objective is not None and fit.objective.log else f"{abs(bend):.3g}"
        yield (
            f"residuals bend with {name}: the law is too {direction} (by {unit} over the range, {errors:.1f} standard "
            "errors), so it will miss beyond the data; try fitting.select"
        )
    elif fit.clusters is None and not few:  # residuals of one cluster are correlated anyway
        yield from _about_neighbors(fit, linear, compute, name)


def _bend_of_few(linear: Linearized, counts: np.ndarray, x: np.ndarray) -> tuple[float, float]:
    """t statistic of a parabola in x added to the law, and the value it must exceed.

    Exact for Gaussian noise whatever the number of points: what the law's own parameters could take of the parabola
    and of the residuals is projected out first.
    """
    root = np.sqrt(linear.weights[counts])
    q, _ = np.linalg.qr(linear.jacobian[counts] / np.maximum(np.linalg.norm(linear.jacobian, axis=0), 1e-300))
    parabola, r = root * x**2, root * linear.residuals[counts]
    parabola, r = parabola - q @ (q.T @ parabola), r - q @ (q.T @ r)
    size = float(np.linalg.norm(parabola))
    freedom = x.size - linear.problem.p - 1
    if size < 1e-6 * np.sqrt(x.size) or freedom < 1:
        return 0.0, np.inf
    along = float(parabola @ r) / size
    noise = np.sqrt(max(float(r @ r) - along**2, 1e-300) / freedom)
    return abs(along) / noise, t_quantile(1 - BEND_SIGNIFICANCE, freedom)


def _about_neighbors(fit: Solution, linear: Linearized, scale: np.ndarray, name: str) -> Iterator[str]:
    """Autocorrelated residuals along the scale: a wrong shape of any kind, or noise that is not independent."""
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
            f"residuals are autocorrelated along {name} (correlation {alike:.2f}; {runs} runs of one sign where "
            f"independent noise has {expected:.0f}): the law has the wrong shape, or the noise is shared and intervals "
            "are too narrow; try fitting.select"
        )


def _about_influence(fit: Solution, linear: Linearized) -> Iterator[str]:
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


_CHECKS = (
    _about_convergence,
    _about_explained,
    _about_bounds,
    _about_inputs,
    _about_flatness,
    _about_limits,
    _about_counts,
    _about_residuals,
    _about_influence,
)
