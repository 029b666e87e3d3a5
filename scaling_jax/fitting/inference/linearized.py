"""A fit linearized at its optimum: parameters, predictions and next runs to first order."""

from __future__ import annotations

import dataclasses

import numpy as np

from scaling_jax.fitting.solver._problem import Problem


@dataclasses.dataclass(frozen=True)
class Linearized:
    """Residuals and jacobian of a fit in the solver's unit-free, centered coordinates z.

    Attributes:
      problem: the `Problem`.
      z: (p,) the optimum in its coordinates.
      residuals: (n,) T(y) - T(f), e.g. ln y - ln f.
      jacobian: (n, p) derivatives of T(f) by z, each row times the square root of its weight.
      weights: (n,) relative to their mean over points that count.
      scale: robust standard deviation of the residuals: 1.4826 times the median size of the n - p largest, since p
        of them are (nearly) zero by the fit itself.
      leverage: (n,) share of each prediction that its own point decides, 0 to 1.
    """

    problem: Problem
    z: np.ndarray
    residuals: np.ndarray
    jacobian: np.ndarray
    weights: np.ndarray
    scale: float
    leverage: np.ndarray

    @property
    def condition(self) -> float:
        """Condition number of the jacobian with columns scaled to unit length: 1 is best, 1e4 and above is flat."""
        return float(np.linalg.cond(self.jacobian / np.maximum(np.linalg.norm(self.jacobian, axis=0), 1e-300)))

    def covariance(self) -> np.ndarray:
        """(p, p) covariance of z as for least squares with the robust scale; huge along flat directions."""
        norm = np.maximum(np.linalg.norm(self.jacobian, axis=0), 1e-300)
        _, s, vt = np.linalg.svd(self.jacobian / norm, full_matrices=False)
        with np.errstate(all="ignore"):  # a parameter without effect has an infinite variance
            half = vt / np.maximum(s, 1e-10 * s[0])[:, None] / norm
            return self.scale**2 * half.T @ half

    def params_at(self, step: np.ndarray) -> dict[str, np.ndarray]:
        """Natural-unit parameters at z + step."""
        return self.problem.constrained(self.z + step)


def linearize(problem: Problem, z: np.ndarray) -> Linearized:
    """Linearizes a fit at its optimum z (p,) on the data it was fitted to."""
    r, jacobian = problem.residuals_and_jacobian(z[None])
    counts = problem.weights > 0
    weights = problem.weights / problem.weights[counts].mean()
    jacobian = jacobian[0].T * np.sqrt(weights)[:, None]
    q, _ = np.linalg.qr(jacobian / np.maximum(np.linalg.norm(jacobian, axis=0), 1e-300))
    return Linearized(
        problem=problem,
        z=z,
        residuals=r[0],
        jacobian=jacobian,
        weights=weights,
        scale=float(1.4826 * np.median(np.sort(np.abs(r[0][counts]))[min(problem.p, counts.sum() - 1) :])),
        leverage=np.minimum(np.sum(q**2, axis=1), 1 - 1e-9),
    )
