"""How much one run scatters: variance components from repeats, from clusters, or from the scatter of neighbors."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import numpy as np

NODES = 2000  # quantiles of the chi distribution that averages are taken over
REPEAT_DOF = 3  # degrees of freedom from which repeated runs estimate the noise better than neighbors


@dataclasses.dataclass(frozen=True)
class Noise:
    """Standard deviations of ln y of one run around the laws.

    Attributes:
      run: of a new run, at the top of the ladder. From repeats it is pure noise; from neighbors it also includes the
        misfit of the laws inside the ladder.
      between: of the part that all runs of a cluster (a trunk, a seed) share; None without clusters.
      within: of the part of each run in its cluster; None without clusters.
      source: "repeats" (runs with the same inputs in different clusters) or "neighbors" (residuals of runs with
        similar tokens per parameter).
      degrees_of_freedom: of `run`.
    """

    run: float
    between: float | None
    within: float | None
    source: str
    degrees_of_freedom: float

    def __repr__(self) -> str:
        parts = ""
        if self.between is not None and self.within is not None:
            parts = f" (between clusters {self.between:.2%}, within {self.within:.2%})"
        return f"one run scatters by {self.run:.2%}{parts}, from {self.source}"


def components(residuals: np.ndarray, labels: np.ndarray, fitted: int = 1) -> tuple[float, float]:
    """Variance between and within clusters by the analysis of variance of unbalanced groups (Searle et al. 1992).

    It equals REML for groups of one size when the estimate is positive.

    Args:
      residuals: (n,) of ln y.
      labels: (n,) whole numbers from 0.
      fitted: parameters of the fit that left the residuals, charged to the differences between clusters.

    Returns:
      (between, within) variances, each 0 or more. Without a cluster of two, everything is between clusters.
    """
    size = np.bincount(labels).astype(float)
    groups, n = int(np.count_nonzero(size)), len(residuals)
    mean = np.bincount(labels, residuals) / np.maximum(size, 1.0)
    if n == groups or groups < 2:
        return float(np.var(residuals)), 0.0
    within = float(np.sum((residuals - mean[labels]) ** 2) / (n - groups))
    among = float(np.sum(size * (mean - residuals.mean()) ** 2) / max(groups - fitted, 1))
    typical = (n - np.sum(size**2) / n) / (groups - 1)
    return max((among - within) / typical, 0.0), within


def cluster_weights(between: float, within: float, labels: np.ndarray) -> np.ndarray:
    """(n,) weights that count m runs of a cluster as the m / (1 + (m - 1) rho) independent runs they are worth."""
    share = between / max(between + within, 1e-300)
    return 1.0 / (1.0 + (np.bincount(labels)[labels] - 1.0) * share)


def repeat_variance(
    inputs: Mapping[str, np.ndarray], log_y: np.ndarray, labels: np.ndarray | None
) -> tuple[float, int]:
    """Pooled variance of ln y among runs of equal inputs, and its degrees of freedom.

    Runs of one cluster share a part of their noise: they enter as their mean.
    """
    table = np.stack([*inputs.values()], axis=1)
    _, group = np.unique(table, axis=0, return_inverse=True)
    group = group.ravel()
    if labels is not None:
        pair = group * (labels.max() + 1) + labels
        _, first, inverse = np.unique(pair, return_index=True, return_inverse=True)
        log_y = np.bincount(inverse.ravel(), log_y) / np.bincount(inverse.ravel())
        group = group[first]
    size = np.bincount(group)
    mean = np.bincount(group, log_y) / np.maximum(size, 1)
    dof = int(np.sum(np.maximum(size - 1, 0)))
    return (float(np.sum((log_y - mean[group]) ** 2) / dof), dof) if dof else (0.0, 0)


def best_of(n: int) -> tuple[float, float]:
    """Mean and standard deviation of the smallest of n independent standard normal numbers.

    The best of n runs that differ only by noise is too low by the first number times the noise of one run, and
    scatters by the second. `best_of(1)` is (0, 1); `best_of(3)` is about (-0.85, 0.75).
    """
    if n == 1:
        return 0.0, 1.0
    z = np.linspace(-9.0, 9.0, 4001)
    below = 0.5 * (1.0 + np.array([math.erf(v / math.sqrt(2.0)) for v in z]))
    density = n * (1.0 - below) ** (n - 1) * np.exp(-0.5 * z**2) / math.sqrt(2.0 * math.pi)
    density = density / np.sum(density)
    mean = float(np.sum(z * density))
    return mean, float(np.sqrt(np.sum((z - mean) ** 2 * density)))


def luck_of_best(n: int, degrees_of_freedom: float, level: float = 0.9) -> tuple[float, float]:
    """How far the best of n repeats may be below their mean by luck alone, in *estimated* standard deviations.

    An exact interval for n normal numbers whose standard deviation is estimated from `degrees_of_freedom` other
    residuals: of the studentized extreme, where P(best > -x s) = E[Phi(x s / sigma)^n] over the chi distribution of s.
    With infinite degrees of freedom it is the order statistic itself.

    Args:
      n: repeats that the best was chosen of.
      degrees_of_freedom: of the estimate.
      level: of the interval.

    Returns:
      (low, high) multiples of the estimate by which the best is below the mean; low may be negative.
    """
    from scipy.special import gammaincinv, ndtr  # imported when needed, as everywhere in this package

    share = (np.arange(NODES) + 0.5) / NODES
    finite = np.isfinite(degrees_of_freedom)
    s = np.sqrt(2.0 * gammaincinv(0.5 * degrees_of_freedom, share) / degrees_of_freedom) if finite else np.ones(1)
    ends = []
    for p in (0.5 * (1.0 - level), 0.5 * (1.0 + level)):
        low, high = -50.0, 200.0
        for _ in range(80):  # bisection: the probability rises with x
            middle = 0.5 * (low + high)
            below = float(np.mean(ndtr(middle * s) ** n))
            low, high = (middle, high) if below < p else (low, middle)
        ends.append(0.5 * (low + high))
    return ends[0], ends[1]
