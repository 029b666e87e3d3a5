"""Posterior samples of a few parameters under Gaussian noise of ln y whose size is unknown.

Small ladders leave a floor, an amplitude and an exponent spread along a curved valley, which a covariance does not
describe. Their posterior under flat priors is sampled instead, by many walkers that learn the shape of the valley from
each other (differential evolution, ter Braak 2006; stretch moves, Goodman & Weare 2010).
"""

from collections.abc import Callable

import numpy as np

EXACT = 1e-5  # precision of ln y beyond which no loss is known
WALKERS = 256
BURN_IN, STEPS, THIN = 500, 800, 10
DRAWS = 2048  # random points evaluated to find a start


def log_likelihood(
    residuals: np.ndarray, clusters: np.ndarray | None = None, share: np.ndarray | None = None
) -> np.ndarray:
    """Log-likelihood of Gaussian residuals with the prior 1 / sigma integrated out.

    Args:
      residuals: (b, n) of ln y.
      clusters: (n,) labels 0, 1, ... of points that share a part of their noise.
      share: (b,) the share of the variance that is common to a cluster, in [0, 1).

    Returns:
      (b,) log-likelihood up to a constant; -inf where a residual is not finite.
    """
    n = residuals.shape[-1]
    with np.errstate(all="ignore"):
        if clusters is None or share is None:
            square, log_det = np.sum(residuals**2, axis=-1), 0.0
        else:
            sizes = np.bincount(clusters)
            order = np.argsort(clusters, kind="stable")
            sums = np.add.reduceat(residuals[:, order], np.cumsum(sizes) - sizes, axis=1)
            own = 1.0 - share[:, None]  # variance of a point about its cluster
            total = own + sizes * share[:, None]  # variance of a cluster's mean, times its size
            square = np.sum(residuals**2, axis=-1) / own[:, 0] - np.sum(
                sums**2 * (share[:, None] / (own * total)), axis=-1
            )
            log_det = np.sum((sizes - 1) * np.log(own) + np.log(total), axis=-1)
        value = -0.5 * n * np.log(square + n * EXACT**2) - 0.5 * log_det
    return np.where(np.isfinite(value), value, -np.inf)


def sample(
    residuals: Callable[[np.ndarray], np.ndarray],
    lower: np.ndarray,
    upper: np.ndarray,
    guess: Callable[[np.ndarray], np.ndarray] | None = None,
    clusters: np.ndarray | None = None,
    seed: int = 0,
) -> np.ndarray:
    """Samples parameters whose prior is flat in a box.

    Args:
      residuals: (b, p) parameters -> (b, n) residuals of ln y; not finite where the model has no value.
      lower: (p,) lower ends of the box, finite.
      upper: (p,) upper ends, finite.
      guess: improves random points (b, p), e.g. by solving for what is linear.
      clusters: (n,) labels 0, 1, ... of points that share noise; the share is sampled too.
      seed: of the sampling.

    Returns:
      (samples, p).
    """
    rng = np.random.default_rng(seed)
    p = len(lower)
    low, high = np.append(lower, 0.0), np.append(upper, 0.999)
    if clusters is None:
        low, high = low[:p], high[:p]

    def log_density(z: np.ndarray) -> np.ndarray:
        inside = np.all((z > low) & (z < high), axis=1)
        value = np.full(len(z), -np.inf)
        if inside.any():
            share = z[inside, p] if clusters is not None else None
            value[inside] = log_likelihood(residuals(z[inside, :p]), clusters, share)
        return value

    best, covariance = _mode(residuals, lower, upper, guess, rng)
    walkers = _around(best, covariance, lower, upper, rng)
    if clusters is not None:
        walkers = np.column_stack([walkers, rng.uniform(0.02, 0.9, len(walkers))])
    density = log_density(walkers)
    kept = []
    for step in range(BURN_IN + STEPS):
        for half in (slice(0, None, 2), slice(1, None, 2)):
            other = walkers[1::2] if half.start == 0 else walkers[::2]
            proposed, log_jacobian = _proposal(walkers[half], other, rng, big=step % 10 == 0)
            there = log_density(proposed)
            accept = np.log(rng.random(len(proposed))) < there - density[half] + log_jacobian
            walkers[half] = np.where(accept[:, None], proposed, walkers[half])
            density[half] = np.where(accept, there, density[half])
        if step >= BURN_IN and step % THIN == 0:
            kept.append(walkers[:, :p].copy())
    return np.concatenate(kept)


def _proposal(
    walkers: np.ndarray, other: np.ndarray, rng: np.random.Generator, big: bool
) -> tuple[np.ndarray, np.ndarray | float]:
    """(proposals, log Jacobians): stretched towards one of the other half, or moved by the difference of two."""
    n, p = walkers.shape
    if rng.random() < 0.5:
        stretch = (1.0 + rng.random(n)) ** 2 / 2.0  # density ~ 1 / sqrt(z) on [1/2, 2]
        partner = other[rng.integers(len(other), size=n)]
        return partner + stretch[:, None] * (walkers - partner), (p - 1) * np.log(stretch)
    first = rng.integers(len(other), size=n)
    second = (first + rng.integers(1, len(other), size=n)) % len(other)
    scale = 1.0 if big else 2.38 / np.sqrt(2 * p)  # sometimes a whole difference, from mode to mode
    return walkers + scale * (other[first] - other[second]) * (1 + 1e-3 * rng.standard_normal((n, 1))), 0.0


def _mode(
    residuals: Callable[[np.ndarray], np.ndarray],
    lower: np.ndarray,
    upper: np.ndarray,
    guess: Callable[[np.ndarray], np.ndarray] | None,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """The least-squares optimum in the box, and a covariance there."""
    from scipy import optimize

    width = upper - lower
    start = lower + width * rng.uniform(0.02, 0.98, (DRAWS, len(lower)))
    if guess is not None:
        start = np.clip(guess(start), lower + 1e-6 * width, upper - 1e-6 * width)

    def finite(z: np.ndarray) -> np.ndarray:
        r = residuals(z[None])[0]
        return np.where(np.isfinite(r), np.clip(r, -1e3, 1e3), 1e3)

    with np.errstate(all="ignore"):
        r = residuals(start)
        cost = np.where(np.isfinite(r).all(axis=1), np.sum(r**2, axis=1), np.inf)
    best = None
    for i in np.argsort(cost)[:3]:
        with np.errstate(all="ignore"):  # far from the data
            found = optimize.least_squares(finite, start[i], bounds=(lower, upper), x_scale=width, max_nfev=200)
        if best is None or found.cost < best.cost:
            best = found
    assert best is not None
    n = len(best.fun)
    variance = 2 * best.cost / max(n - len(lower), 1) + EXACT**2
    # Curvature in parts of the box, never flatter than the box itself is wide.
    jacobian = np.asarray(best.jac) * width
    curvature = jacobian.T @ jacobian / variance + 12.0 * np.eye(len(lower))
    return best.x, np.linalg.inv(curvature) * np.outer(width, width)


def _around(
    best: np.ndarray, covariance: np.ndarray, lower: np.ndarray, upper: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """(WALKERS, p) points around the optimum, inside the box."""
    margin = 1e-9 * (upper - lower)
    factor = np.linalg.cholesky(covariance)
    walkers = best + rng.standard_normal((WALKERS, len(best))) @ factor.T
    # Reflected at the ends, so that an optimum on an edge does not put all walkers there.
    walkers = lower + np.abs(walkers - lower)
    walkers = upper - np.abs(upper - walkers)
    return np.clip(walkers, lower + margin, upper - margin)
