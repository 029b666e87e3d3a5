"""How sure a fit is: covariance of the parameters, and intervals of anything computed from them.

Intervals come from the bootstrap when the fit has one, and from the delta method otherwise. The covariance is the
sandwich of robust regression: products of each point's own pull in the middle (White 1980), summed by cluster where
points are not independent, at residuals that got back what the fit took of them (to first order the HC3 of MacKinnon &
White 1985, without which intervals of small samples are too narrow); outside, the curvature of the objective, which
for a small delta is the density of residuals around zero, taken where each point is (Powell 1991).
"""

from dataclasses import dataclass

import numpy as np

STEP = 1e-5  # of the coordinates, for central differences of derived quantities


@dataclass(frozen=True)
class Spread:
    """Covariance of the solver's coordinates.

    Attributes:
      covariance: (p, p); zero rows for coordinates held at a bound, huge along directions that the data leave open.
      inverse: (p, p) inverse curvature of the objective, per unit of mean weight: what the covariance would be if
        the objective were a negative log-likelihood.
      held: (p,) which coordinates sit at a bound.
      scale: mean squared pull over mean curvature: twice the objective over it behaves like a chi-square.
      dof: degrees of freedom of the t quantiles: points (or clusters) minus fitted parameters, at least 1; 0 where
        the points are as few as the parameters, so that no residual tells the noise and every interval is open.
    """

    covariance: np.ndarray
    inverse: np.ndarray
    held: np.ndarray
    scale: float
    dof: float


def spread(problem, z, clusters=None):
    """`Spread` at an optimum z (p,)."""
    objective, used = problem.objective, problem.weights > 0
    r, rows = (a[0] for a in problem.residuals_and_slopes(z[None]))
    r, rows, w = r[used], rows[:, used], problem.weights[used] / problem.weights[used].mean()
    held = (z <= problem.lower) | (z >= problem.upper)
    free = np.flatnonzero(~held)
    covariance, inverse = np.zeros((problem.p, problem.p)), np.zeros((problem.p, problem.p))
    groups, left = len(r), max(len(r) - len(free), 1)
    curvature, pull = _curvature(objective, r), _pull(objective, r)
    scale = np.sum(w * pull**2) / left / max(np.mean(w * curvature), 1e-300)
    with np.errstate(all="ignore"):  # a parameter without effect has no curvature and gets an infinite variance
        if not len(free):
            return Spread(covariance, inverse, held, float(scale), float(groups))
        unit = 1.0 / np.sqrt(np.maximum(np.sum(w * rows[free] ** 2, axis=1), 1e-300))
        rows = rows[free] * unit[:, None]
        values, vectors = np.linalg.eigh((rows * (w * curvature)) @ rows.T)
        floor = 1e-13 * values.max() + 1e-300
        flat, steep = values <= floor, np.maximum(values, floor)
        bread = (vectors / steep) @ vectors.T
        taken = pulled_towards_own(problem, z, clusters)[used]
        scores, correction = rows * (w * _pull(objective, r + taken)), 1.0
        if clusters is not None:
            labels = np.unique(clusters[used], return_inverse=True)[1]
            groups = int(labels.max()) + 1
            summed = np.zeros((groups, len(free)))
            np.add.at(summed, labels, scores.T)
            scores, correction = summed.T, groups / max(groups - 1, 1)
        part = np.ix_(free, free)
        inverse[part] = bread * np.outer(unit, unit)
        middle = vectors.T @ scores
        middle = (middle @ middle.T) * correction / np.outer(steep, steep)
        # No curvature means no pull either, and 0 / 0 is rounding: flat directions get the variance of the steepness
        # that rounding could hide.
        middle[flat], middle[:, flat] = 0.0, 0.0
        middle[flat, flat] = scale / floor
        covariance[part] = vectors @ middle @ vectors.T * np.outer(unit, unit)
    dof = max(groups - len(free), 1) if len(r) > len(free) else 0
    return Spread(covariance, inverse, held, float(scale), float(dof))


def pulled_towards_own(problem, z, labels):
    """(n,) by how much, to first order, each residual at z (p,) is smaller for its own cluster's part in the fit.

    For least squares and single points it is leverage times residual. labels: (n,) whole numbers from 0; None for
    single points.
    """
    objective, used = problem.objective, problem.weights > 0
    r, rows = (a[0] for a in problem.residuals_and_slopes(z[None]))
    rows = rows[(z > problem.lower) & (z < problem.upper)]
    if not len(rows):
        return np.zeros(len(r))
    w = np.where(used, problem.weights, 0.0) / problem.weights[used].mean()
    rows = rows / np.sqrt(np.maximum(np.sum(w * rows**2, axis=1), 1e-300))[:, None]
    curvature = np.zeros(len(r))
    curvature[used] = _curvature(objective, r[used])
    pull = _pull(objective, r)
    values, vectors = np.linalg.eigh((rows * (w * curvature)) @ rows.T)
    steep = values > 1e-13 * values.max() + 1e-300  # along flat directions the fit takes nothing of anything
    rows = vectors[:, steep].T @ rows / np.sqrt(values[steep])[:, None]
    scores = rows * (w * pull)
    if labels is not None:
        summed = np.zeros((labels.max() + 1, len(rows)))
        np.add.at(summed, labels, scores.T)
        scores = summed[labels].T
    return np.sum(rows * scores, axis=0)


def _pull(objective, r):
    """cost'(r) of each point."""
    clipped = np.clip(r, -objective.delta, objective.delta) if objective.delta else np.sign(r)
    return objective.sides(r) * objective.scale * clipped


def _curvature(objective, r):
    """cost'' at each point, averaged over the half of the points nearest to the law where delta is smaller."""
    delta, size = objective.delta, np.abs(r)
    sides = objective.sides(r) * objective.scale
    width = max(delta, np.median(size))
    if np.isinf(width):
        return sides
    # Beyond delta a Huber cost is delta |r|: within the width it bends by delta / width on average, LAD by 1 / width.
    return sides * (size <= width) * ((delta if delta else 1.0) / max(width, 1e-300))


def t_quantile(level, dof):
    """Half-width of a central interval in standard errors."""
    if dof <= 0:
        return np.inf
    from scipy.special import stdtrit

    return float(stdtrit(dof, 0.5 + 0.5 * level))


def quantiles(samples, level):
    """(2, ...) central quantiles over the first axis; samples that are infinite or unknown (nan) make open ends."""
    tail, last = (1 - level) / 2, len(samples) - 1
    unknown, ends = np.isnan(samples), []
    for share, rank, worst in ((tail, np.floor(tail * last), -np.inf), (1 - tail, np.ceil((1 - tail) * last), np.inf)):
        known = np.where(unknown, worst, samples)
        with np.errstate(invalid="ignore"):
            end = np.quantile(known, share, axis=0, method="linear")
        ends.append(np.where(np.isfinite(end), end, np.sort(known, axis=0)[int(rank)]))
    return np.stack(ends)


def gradient_by_z(problem, z, function):
    """Derivatives of a derived quantity by the coordinates, (p, ...), by central differences.

    `function` takes natural-unit parameters, each (s,), and returns (s, ...).
    """
    steps = STEP * np.maximum(np.abs(z), 0.1) * np.eye(len(z))
    values = np.asarray(function(problem.natural(np.concatenate([z + steps, z - steps]))), np.float64)
    up, down = values[: len(z)], values[len(z) :]
    width = 2 * np.diag(steps).reshape(-1, *[1] * (values.ndim - 1))
    with np.errstate(all="ignore"):
        return (up - down) / width


def delta_interval(problem, z, spread_, function, level, log):
    """(2, ...) interval of function(params) by the delta method, in logarithms where `log`.

    A quantity that depends on a coordinate at a bound, or on a direction the data leave open, gets open ends.
    """

    def transformed(params):
        value = np.asarray(function(params), np.float64)
        with np.errstate(all="ignore"):
            return np.log(value) if log else value

    gradient = gradient_by_z(problem, z, transformed)
    centre = transformed({k: v[None] for k, v in problem.natural(z).items()})[0]
    variance = np.einsum("i...,ij,j...->...", np.nan_to_num(gradient), spread_.covariance, np.nan_to_num(gradient))
    if spread_.dof:
        half = t_quantile(level, spread_.dof) * np.sqrt(np.maximum(variance, 0.0))
    else:
        half = np.where(np.any(gradient != 0, axis=0), np.inf, 0.0)
    half = np.where(np.isfinite(gradient).all(axis=0), half, np.inf)
    with np.errstate(over="ignore", invalid="ignore"):  # open ends of a value that is itself 0 or infinite
        low, high = (np.exp(centre + s * half) if log else centre + s * half for s in (-1, 1))
    return np.stack([low, high])


def delta_intervals(fit, level):
    """{name: (lower, upper)} of a fit's parameters and derived exponents by the delta method."""
    found = {}
    for k in fit.free:
        bounds = fit.law.bounds[k]
        if k in fit.at_bounds:
            found[k] = bounds
            continue
        ends = fit.interval_of(lambda p, k=k: p[k], level, log=bounds[0] >= 0)
        found[k] = tuple(float(v) for v in np.clip(ends, *bounds))
    for k, of in fit.law.exponents.items():
        found.setdefault(k, tuple(map(float, fit.interval_of(of, level))))
    return found


def open_where_unmoved(fit, intervals):
    """Resampled intervals, with the law's bounds where no resample moved what the data do not determine."""
    unmoved = [k for k, (low, high) in intervals.items() if low == high]
    errors = delta_errors(fit) if unmoved else {}
    without = {k: fit.law.bounds.get(k, (-np.inf, np.inf)) for k in unmoved if np.isinf(errors[k])}
    return {**intervals, **without}


def delta_errors(fit):
    """{name: standard error} of a fit's parameters and derived exponents by the delta method."""
    quantities = dict(fit.law.exponents) | {k: (lambda p, k=k: p[k]) for k in fit.free}
    errors = {}
    for k in (*fit.free, *(k for k in fit.law.exponents if k not in fit.free)):
        gradient = gradient_by_z(fit._problem, fit._z, quantities[k])
        with np.errstate(invalid="ignore"):  # beyond float64 there is no slope: the error is infinite
            variance = float(gradient @ fit.spread.covariance @ gradient)
        sure = k not in fit.at_bounds and np.isfinite(variance) and (fit.spread.dof > 0 or not gradient.any())
        errors[k] = float(np.sqrt(max(variance, 0.0))) if sure else np.inf
    return errors
