"""What is known of a loss surface before its law is: an ensemble of laws under a broad prior.

Laws are y = E + A (N / N0)^-alpha + B (D / D0)^-beta, with ln alpha and ln beta on a grid, normal about ln 1/3. Given
the exponents, E, A, B and the noise of a run relative to y have a conjugate normal-inverse-gamma prior, so that the
posterior and the evidence of every law are closed forms (Bishop 2006, 3.3-3.5; Gelman et al., BDA3, 14.2); the evidence
weighs the laws. The covariance of ln y over the ensemble is that within laws plus that between them. With few runs it
is the prior's, and every run apart from the others says much; with many it is that of one fitted law.
"""

from __future__ import annotations

import numpy as np

EXPONENT, SPREAD = 1 / 3, 0.5  # prior median of alpha and beta, and standard deviation of their logarithm
GRID = np.linspace(-2.5, 2.5, 11)  # of the logarithms, in standard deviations
NOISE, NOISE_DOF = 0.005, 2.0  # prior size of the noise relative to y, and how many runs that is worth
SMALLEST = 1e-6  # weight of laws that are left out, relative to the largest


def surface_covariance(
    known: tuple[np.ndarray, np.ndarray], y: np.ndarray, weights: np.ndarray, asked: tuple[np.ndarray, np.ndarray]
) -> tuple[np.ndarray, float]:
    """What the ensemble does not know of ln y.

    Args:
      known: N and D of the runs that exist, each (n,).
      y: (n,) their losses.
      weights: (n,) how many runs each counts as.
      asked: N and D of other runs, each (m,).

    Returns:
      (m, m) covariance of ln y there, noise excluded, and the expected variance of the noise of ln y.
    """
    alpha, beta, prior = _exponents()
    middle = tuple(float(np.exp(np.mean(np.log(v)))) for v in known)
    X = _terms(alpha, beta, *known, middle) * (np.mean(y) / y)[:, None]
    precision = np.einsum("kni,n,knj->kij", X, weights, X) + NOISE**2 * np.eye(3)
    inverse = np.linalg.inv(precision)
    mean = np.einsum("kij,knj,n->ki", inverse, X, weights)
    left = weights.sum() - np.einsum("ki,kij,kj->k", mean, precision, mean)  # sum of squares, the prior's included
    left = np.maximum(left, 0.0) + NOISE_DOF * NOISE**2
    dof = NOISE_DOF + weights.sum()
    evidence = prior - 0.5 * np.linalg.slogdet(precision)[1] - 0.5 * dof * np.log(left)
    kept = evidence > evidence.max() + np.log(SMALLEST)
    w = np.exp(evidence[kept] - evidence.max())
    w /= w.sum()
    variance = left[kept] / weights.sum()  # the mean of the inverse gamma, with NOISE_DOF = 2
    at = _terms(alpha[kept], beta[kept], *asked, middle)
    each = np.einsum("kmi,ki->km", at, mean[kept])
    center = w @ each
    away = each - center
    within = np.einsum("kmi,kij,klj->ml", at * (w * variance)[:, None, None], inverse[kept], at, optimize=True)
    size = np.maximum(center, 0.2)  # of the mean loss: a law may run below zero far away
    return (within + (away.T * w) @ away) / np.outer(size, size), float(w @ variance)


def _exponents() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """alpha, beta and the logarithm of their prior, each (k,)."""
    a, b = (v.ravel() for v in np.meshgrid(GRID, GRID, indexing="ij"))
    return EXPONENT * np.exp(SPREAD * a), EXPONENT * np.exp(SPREAD * b), -0.5 * (a**2 + b**2)


def _terms(alpha: np.ndarray, beta: np.ndarray, N: np.ndarray, D: np.ndarray, middle: tuple[float, ...]) -> np.ndarray:
    """(k, m, 3) what E, A and B are multiplied by."""
    n, d = np.log(N / middle[0]), np.log(D / middle[1])
    parts = [np.ones((len(alpha), len(n))), np.exp(-alpha[:, None] * n), np.exp(-beta[:, None] * d)]
    return np.stack(parts, axis=-1)
