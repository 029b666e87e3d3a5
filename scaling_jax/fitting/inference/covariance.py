"""How sure a fit is: covariance of the parameters, and intervals of anything computed from them.

Intervals come from the bootstrap when the fit has one, and from the delta method otherwise. The covariance is the
sandwich of robust regression: products of each point's own score in the middle (White 1980), summed by cluster where
points are not independent, at residuals that got back what the fit took of them (to first order the HC3 of MacKinnon &
White 1985, without which intervals of small samples are too narrow); outside, the curvature of the objective, which
for a small delta is the density of residuals around zero, taken where each point is (Powell 1991).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from scaling_jax.fitting.objectives import Objective
from scaling_jax.fitting.solver._problem import Coordinates, Problem

STEP = 1e-5  # of the coordinates, for central differences of derived quantities


@dataclass(frozen=True)
class Covariance:
    """Covariance of the solver's coordinates.

    Attributes:
      matrix: (p, p); zero rows for coordinates held at a bound, huge along directions that the data leave open.
      inverse: (p, p) inverse curvature of the objective, per unit of mean weight: what the covariance would be if
        the objective were a negative log-likelihood.
      held: (p,) which coordinates sit at a bound.
      scale: mean squared score over mean curvature: twice the objective over it behaves like a chi-square.
      dof: degrees of freedom of the t quantiles: points (or clusters) minus fitted parameters, at least 1; 0 where
        the points are as few as the parameters, so that no residual tells the noise and every interval is open.
    """

    matrix: np.ndarray
    inverse: np.ndarray
    held: np.ndarray
    scale: float
    dof: float


def covariance(problem: Problem, z: np.ndarray, clusters: np.ndarray | None = None) -> Covariance:
    """`Covariance` at an optimum z (p,)."""
    objective, used = problem.objective, problem.weights > 0
    r, rows = (a[0] for a in problem.residuals_and_jacobian(z[None]))
    r, rows, w = r[used], rows[:, used], problem.weights[used] / problem.weights[used].mean()
    held = (z <= problem.lower) | (z >= problem.upper)
    free = np.flatnonzero(~held)
    matrix, inverse = np.zeros((problem.p, problem.p)), np.zeros((problem.p, problem.p))
    groups, left = len(r), max(len(r) - len(free), 1)
    curvature, score = _curvature(objective, r), _psi(objective, r)
    scale = np.sum(w * score**2) / left / max(np.mean(w * curvature), 1e-300)
    with np.errstate(all="ignore"):  # a parameter without effect has no curvature and gets an infinite variance
        if not len(free):
            return Covariance(matrix, inverse, held, float(scale), float(groups))
        unit = 1.0 / np.sqrt(np.maximum(np.sum(w * rows[free] ** 2, axis=1), 1e-300))
        rows = rows[free] * unit[:, None]
        values, vectors = np.linalg.eigh((rows * (w * curvature)) @ rows.T)
        floor = 1e-13 * values.max() + 1e-300
        flat, steep = values <= floor, np.maximum(values, floor)
        bread = (vectors / steep) @ vectors.T
        taken = leverage_correction(problem, z, clusters)[used]
        scores, correction = rows * (w * _psi(objective, r + taken)), 1.0
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
        # No curvature means no score either, and 0 / 0 is rounding: flat directions get the variance of the steepness
        # that rounding could hide.
        middle[flat], middle[:, flat] = 0.0, 0.0
        middle[flat, flat] = scale / floor
        matrix[part] = vectors @ middle @ vectors.T * np.outer(unit, unit)
    dof = max(groups - len(free), 1) if len(r) > len(free) else 0
    return Covariance(matrix, inverse, held, float(scale), float(dof))


def leverage_correction(problem: Problem, z: np.ndarray, labels: np.ndarray | None) -> np.ndarray:
    """(n,) by how much, to first order, each residual at z (p,) is smaller for its own cluster's part in the fit.

    For least squares and single points it is leverage times residual. labels: (n,) whole numbers from 0; None for
    single points.
    """
    objective, used = problem.objective, problem.weights > 0
    r, rows = (a[0] for a in problem.residuals_and_jacobian(z[None]))
    rows = rows[(z > problem.lower) & (z < problem.upper)]
    if not len(rows):
        return np.zeros(len(r))
    w = np.where(used, problem.weights, 0.0) / problem.weights[used].mean()
    rows = rows / np.sqrt(np.maximum(np.sum(w * rows**2, axis=1), 1e-300))[:, None]
    curvature = np.zeros(len(r))
    curvature[used] = _curvature(objective, r[used])
    score = _psi(objective, r)
    values, vectors = np.linalg.eigh((rows * (w * curvature)) @ rows.T)
    steep = values > 1e-13 * values.max() + 1e-300  # along flat directions the fit takes nothing of anything
    rows = vectors[:, steep].T @ rows / np.sqrt(values[steep])[:, None]
    scores = rows * (w * score)
    if labels is not None:
        summed = np.zeros((labels.max() + 1, len(rows)))
        np.add.at(summed, labels, scores.T)
        scores = summed[labels].T
    return np.sum(rows * scores, axis=0)


def _psi(objective: Objective, r: np.ndarray) -> np.ndarray:
    """cost'(r) of each point."""
    clipped = np.clip(r, -objective.delta, objective.delta) if objective.delta else np.sign(r)
    return objective.asymmetry(r) * objective.scale * clipped


def _curvature(objective: Objective, r: np.ndarray) -> np.ndarray:
    """cost'' at each point, averaged over the half of the points nearest to the law where delta is smaller."""
    delta, size = objective.delta, np.abs(r)
    factor = objective.asymmetry(r) * objective.scale
    width = max(delta, np.median(size))
    if np.isinf(width):
        return factor
    # Beyond delta a Huber cost is delta |r|: within the width it bends by delta / width on average, LAD by 1 / width.
    return factor * (size <= width) * ((delta if delta else 1.0) / max(width, 1e-300))


def t_quantile(level: float, dof: float) -> float:
    """Half-width of a central interval in standard errors."""
    if dof <= 0:
        return np.inf
    from scipy.special import stdtrit

    return float(stdtrit(dof, 0.5 + 0.5 * level))


def quantiles(samples: np.ndarray, level: float) -> np.ndarray:
    """(2, ...) central quantiles over the first axis; samples that are infinite or unknown (nan) make open ends."""
    tail, last = (1 - level) / 2, len(samples) - 1
    unknown, ends = np.isnan(samples), []
    for share, rank, worst in ((tail, np.floor(tail * last), -np.inf), (1 - tail, np.ceil((1 - tail) * last), np.inf)):
        known = np.where(unknown, worst, samples)
        with np.errstate(invalid="ignore"):
            end = np.quantile(known, share, axis=0, method="linear")
        ends.append(np.where(np.isfinite(end), end, np.sort(known, axis=0)[int(rank)]))
    return np.stack(ends)


def gradient_by_z(
    problem: Coordinates, z: np.ndarray, function: Callable[[Mapping[str, np.ndarray]], np.ndarray]
) -> np.ndarray:
    """Derivatives of a derived quantity by the coordinates, (p, ...), by central differences.

    `function` takes natural-unit parameters, each (s,), and returns (s, ...).
    """
    steps = STEP * np.maximum(np.abs(z), 0.1) * np.eye(len(z))
    values = np.asarray(function(problem.constrained(np.concatenate([z + steps, z - steps]))), np.float64)
    up, down = values[: len(z)], values[len(z) :]
    width = 2 * np.diag(steps).reshape(-1, *[1] * (values.ndim - 1))
    with np.errstate(all="ignore"):
        return (up - down) / width


def delta_interval(
    problem: Coordinates,
    z: np.ndarray,
    covariance: Covariance,
    function: Callable[[Mapping[str, np.ndarray]], np.ndarray],
    level: float,
    log: bool,
) -> np.ndarray:
    """(2, ...) interval of function(params) by the delta method, in logarithms where `log`.

    A quantity that depends on a coordinate at a bound, or on a direction the data leave open, gets open ends.
    """

    def transformed(params: Mapping[str, np.ndarray]) -> np.ndarray:
        value = np.asarray(function(params), np.float64)
        with np.errstate(all="ignore"):
            return np.log(value) if log else value

    gradient = gradient_by_z(problem, z, transformed)
    center = transformed({k: v[None] for k, v in problem.constrained(z).items()})[0]
    variance = np.einsum("i...,ij,j...->...", np.nan_to_num(gradient), covariance.matrix, np.nan_to_num(gradient))
    if covariance.dof:
        half = t_quantile(level, covariance.dof) * np.sqrt(np.maximum(variance, 0.0))
    else:
        half = np.where(np.any(gradient != 0, axis=0), np.inf, 0.0)
    half = np.where(np.isfinite(gradient).all(axis=0), half, np.inf)
    with np.errstate(over="ignore", invalid="ignore"):  # open ends of a value that is itself 0 or infinite
        low, high = (np.exp(center + s * half) if log else center + s * half for s in (-1, 1))
    return np.stack([low, high])
