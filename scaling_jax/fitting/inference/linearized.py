"""A fit linearised at its optimum: what its parameters, predictions and next runs look like to first order."""

from __future__ import annotations

import dataclasses

import numpy as np

from scaling_jax.fitting.solver._problem import Problem


@dataclasses.dataclass(frozen=True)
class Linearised:
    """Residuals and slopes of a fit in the solver's unit-free, centred coordinates z.

    Attributes:
      problem: the `Problem`; z: (p,) the optimum in its coordinates.
      residuals: (n,) T(y) - T(f), e.g. ln y - ln f.
      slopes: (n, p) derivatives of T(f) by z, each row times the square root of its weight.
      weights: (n,) relative to their mean over points that count.
      scale: robust standard deviation of the residuals: 1.4826 times the median size of the n - p largest, since p
        of them are (nearly) zero by the fit itself.
      leverage: (n,) how much of each prediction its own point decides, 0 to 1.
    """

    problem: Problem
    z: np.ndarray
    residuals: np.ndarray
    slopes: np.ndarray
    weights: np.ndarray
    scale: float
    leverage: np.ndarray

    @property
    def condition(self) -> float:
        """Condition number of the slopes with columns scaled to unit length: 1 is best, 1e4 and above is flat."""
        return float(np.linalg.cond(self.slopes / np.maximum(np.linalg.norm(self.slopes, axis=0), 1e-300)))

    def covariance(self) -> np.ndarray:
        """(p, p) covariance of z as for least squares with the robust scale; huge along flat directions."""
        norm = np.maximum(np.linalg.norm(self.slopes, axis=0), 1e-300)
        _, s, vt = np.linalg.svd(self.slopes / norm, full_matrices=False)
        with np.errstate(all="ignore"):  # a parameter without effect has an infinite variance
            half = vt / np.maximum(s, 1e-10 * s[0])[:, None] / norm
            return self.scale**2 * half.T @ half

    def natural(self, step: np.ndarray) -> dict[str, np.ndarray]:
        """Natural-unit parameters at z + step."""
        return self.problem.natural(self.z + step)


def linearise(fit) -> Linearised:
    """Linearises a `Fit` on the data it was fitted to."""
    fit._need_data("this diagnostic")
    problem, z = fit._problem, fit._z
    r, slopes = problem.residuals_and_slopes(z[None])
    counts = problem.weights > 0
    weights = problem.weights / problem.weights[counts].mean()
    slopes = slopes[0].T * np.sqrt(weights)[:, None]
    q, _ = np.linalg.qr(slopes / np.maximum(np.linalg.norm(slopes, axis=0), 1e-300))
    return Linearised(
        problem=problem,
        z=z,
        residuals=r[0],
        slopes=slopes,
        weights=weights,
        scale=float(1.4826 * np.median(np.sort(np.abs(r[0][counts]))[min(problem.p, counts.sum() - 1) :])),
        leverage=np.minimum(np.sum(q**2, axis=1), 1 - 1e-9),
    )
