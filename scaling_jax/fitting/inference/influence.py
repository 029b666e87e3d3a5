"""Influential points: leave-one-out refits, and a refit without all of them at once."""

from __future__ import annotations

import dataclasses

import numpy as np

from scaling_jax.fitting.data import check_int
from scaling_jax.fitting.solution import Solution
from scaling_jax.fitting.solver._levenberg_marquardt import levenberg_marquardt
from scaling_jax.text import short, table

# Belsley, Kuh & Welsch 1980: a point that moves its own prediction by more than one standard error (|DFFITS| > 1) is
# influential. Leverage alone does no harm, so the point must also be an outlier in robust standard deviations.
INFLUENTIAL, OUTLYING = 1.0, 4.0
# Beyond this many points only those with the largest first-order influence are left out in turn.
MAX_REFITS = 400


@dataclasses.dataclass(frozen=True, repr=False)
class Influence:
    """Effect of each point on a fit. Made by `influence`.

    Attributes:
      flagged: indices of influential points, worst first: |dffits| > 1 and residual > 4 scales.
      dffits: (n,) robust residual over its scale, times sqrt(leverage) / (1 - leverage).
      residuals: (n,) T(y) - T(f).
      scale: their robust standard deviation.
      leverage: (n,) diagonal of the hat matrix.
      moves: parameter -> (n,) its change when the point alone is left out (nan where it was not refitted).
      without: parameters of the fit without all flagged points at once (those of the fit when there are none).
        Points that err together hide each other from leave-one-out; this shows them.
      shift: (p,) by how many standard errors each free parameter differs in `without`.
      params: those of the fit.
      inputs: name -> (n,) of the points.
    """

    flagged: np.ndarray
    dffits: np.ndarray
    residuals: np.ndarray
    scale: float
    leverage: np.ndarray
    moves: dict[str, np.ndarray]
    without: dict[str, float]
    shift: np.ndarray
    params: dict[str, float]
    inputs: dict[str, np.ndarray]

    def __repr__(self) -> str:
        rows = [
            (
                i,
                *(short(float(v[i])) for v in self.inputs.values()),
                f"{self.residuals[i] / self.scale:.1f}",
                f"{self.leverage[i]:.3f}",
                f"{self.dffits[i]:.2f}",
            )
            + tuple(f"{100 * self.moves[k][i] / self.params[k]:+.2f}%" for k in self.moves)
            for i in self.flagged
        ]
        header = (
            "point",
            *self.inputs,
            "residual/scale",
            "leverage",
            "dffits",
            *(f"{k} without it" for k in self.moves),
        )
        changes = ", ".join(f"{k} {self.params[k]:.4g} -> {self.without[k]:.4g}" for k in self.moves)
        return "\n".join([table(header, rows), f"  without all {len(rows)} of them: {changes}"] if rows else ["none"])


def influence(fit: Solution, refits: int = MAX_REFITS) -> Influence:
    """Leave-one-out influence of every point.

    Points are flagged to first order with a robust scale (DFFITS), since a robust objective hides an outlier from
    its own leave-one-out; the refits then show the effect of leaving each out. They start at the optimum and run
    together, so that 240 points cost about as much as 240 bootstrap resamples.

    Args:
      fit: a `Fit`.
      refits: at most this many points are left out in turn, those with the largest |dffits|.

    Example:
      >>> from scaling_jax import fitting
      >>> x, y = [1, 2, 4, 8, 16, 32, 64, 128], [8, 4.1, 1.95, 1.02, 0.8, 0.252, 0.126, 0.0617]
      >>> fitting.influence(fitting.fit("power", x, y)).flagged
      array([4])
    """
    linear, refits = fit.linearized, check_int(refits, "refits")
    data, _, _ = fit.observed("influence")
    problem, n = linear.problem, linear.residuals.size
    size = linear.residuals * np.sqrt(linear.weights) / max(linear.scale, 1e-300)
    # Noise-free data have a scale of rounding errors: no point can be influential.
    if linear.scale < 1e-9:
        size = np.zeros(n)
    dffits = size * np.sqrt(linear.leverage) / (1 - linear.leverage)
    order = np.argsort(-np.abs(dffits), kind="stable")
    flagged = order[(np.abs(dffits[order]) > INFLUENTIAL) & (np.abs(size[order]) > OUTLYING)]
    moves = {k: np.full(n, np.nan) for k in problem.free}
    chosen = order[: min(refits, n)]
    weights = np.repeat(problem.weights[None], chosen.size + 1, axis=0)
    weights[np.arange(chosen.size), chosen] = 0.0
    weights[-1, flagged] = 0.0
    starts = np.repeat(linear.z[None], chosen.size + 1, axis=0)
    nothing = not (chosen.size or flagged.size)
    z = starts if nothing else levenberg_marquardt(problem, starts, weights).z
    params = problem.constrained(z)
    deviation = np.sqrt(np.diag(linear.covariance()))
    for k in problem.free:
        moves[k][chosen] = params[k][:-1] - fit.params[k]
    return Influence(
        flagged=flagged,
        dffits=dffits,
        residuals=linear.residuals,
        scale=linear.scale,
        leverage=linear.leverage,
        moves=moves,
        shift=np.divide(z[-1] - linear.z, deviation, out=np.zeros(deviation.size), where=deviation > 0),
        without={k: float(v[-1]) for k, v in params.items()} if flagged.size else dict(fit.params),
        params=dict(fit.params),
        inputs=dict(data),
    )
