"""The most informative next runs: optimal design from the jacobian of the fitted law."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from scaling_jax.fitting.data import check_all_positive, check_int, check_positive
from scaling_jax.fitting.errors import FitError
from scaling_jax.fitting.inference.covariance import gradient_by_z
from scaling_jax.fitting.solution import Solution
from scaling_jax.text import short, table

CRITERIA = ("frontier", "parameters")
RUNS = np.dtype([(k, np.float64) for k in ("N", "D", "C", "stderr")])


@dataclasses.dataclass(frozen=True, repr=False)
class Design:
    """Runs to do next, in the order they were chosen. Made by `next_runs`.

    Attributes:
      runs: record array `.N .D .C` and `.stderr`, the expected standard error of ln N*(target) after this run and
        those before it.
      before: that standard error now.
      target: the compute it refers to.
      criterion: "frontier" or "parameters".
    """

    runs: np.recarray
    before: float
    target: float
    criterion: str

    def __repr__(self) -> str:
        rows = [(f"{r.N:.3g}", short(r.D), f"{r.C:.3g}", f"{r.stderr:.3f}") for r in self.runs]
        return "\n".join(
            [
                f"  now ln N*({self.target:.3g}) is known to +-{self.before:.3f} (one standard error, to first order)",
                table(("N", "D", "C", "then +-"), rows),
            ]
        )


def next_runs(
    fit: Solution,
    budget: float,
    *,
    target: float | None = None,
    runs: int = 8,
    N: Any = None,
    D: Any = None,
    criterion: str = "frontier",
) -> Design:
    """Chooses runs greedily, each the most informative of those that cost at most an equal share of the budget left.

    To first order a run at (N, D) adds g g' / s^2 to the information matrix, with g the gradient of ln y by the
    parameters there and s the robust residual scale of the fit. "frontier" reduces the variance of ln N*(target)
    (c-optimal), "parameters" raises the determinant (D-optimal; Fedorov 1972).

    Args:
      fit: a `Fit` of a law with inputs N and D and a frontier.
      budget: FLOPs (6 N D) to spend on the next runs.
      target: compute of the run that is being planned; None takes ten times the largest of the data.
      runs: at most this many.
      N: sizes to choose among; None takes 25 from a third of the smallest to three times the largest in the data.
      D: tokens to choose among, in every combination with N; None likewise.
      criterion: "frontier" or "parameters".

    Raises:
      FitError: the law has no N and D, an unknown criterion, or the budget is below the cheapest run.

    Example:
      >>> import numpy as np
      >>> from scaling_jax import fitting
      >>> N, D = (v.ravel() for v in np.meshgrid(np.logspace(7, 9, 4), np.logspace(9, 11, 4)))
      >>> loss = 1.7 + 480 / N**0.35 + 2100 / D**0.37
      >>> noisy = loss * np.exp(0.01 * np.random.default_rng(0).standard_normal(16))
      >>> fit = fitting.fit("chinchilla", {"N": N, "D": D}, noisy)
      >>> plan = fitting.next_runs(fit, budget=1e20, runs=2)
      >>> bool(plan.runs.stderr[-1] < plan.before and plan.runs.C.sum() <= 1e20)
      True
    """
    if criterion not in CRITERIA:
        raise FitError(f"criterion is {criterion!r}: choose one of {', '.join(CRITERIA)}")
    if set(fit.law.inputs) != {"N", "D"} and fit.law.from_nd is None:
        raise FitError(f"{fit.law.name} takes {', '.join(fit.law.inputs)}: next runs are planned over N and D")
    data, _, _ = fit.observed("next_runs")
    check_positive(budget, "budget", "1e20")
    check_int(runs, "runs", 1)
    target = 10 * fit.ranges["C"][1] if target is None else check_positive(target, "target", "1e22")
    seen = fit.law.nd(data) or (data["N"], data["D"])
    grid = np.meshgrid(_choices(N, seen[0], "N"), _choices(D, seen[1], "D"), indexing="ij")
    n, d = (x.ravel() for x in grid)
    linear = fit.linearized
    unit = np.maximum(np.linalg.norm(linear.jacobian, axis=0), 1e-300)  # of each parameter, by its own information
    known, gradient = linear.jacobian / unit, _frontier_gradient(fit, target) / unit
    inverse = np.linalg.pinv(known.T @ known, rcond=1e-12, hermitian=True)
    choices = _Choices(_jacobian_at(fit, n, d) / unit, 6 * n * d, gradient, inverse, criterion)
    chosen, variances = choices.best_plan(budget, runs)
    scale = max(linear.scale, 1e-300)
    records = [(n[i], d[i], choices.cost[i], scale * np.sqrt(v)) for i, v in zip(chosen, variances)]
    before = scale * np.sqrt(gradient @ inverse @ gradient)
    return Design(np.array(records, dtype=RUNS).view(np.recarray), float(before), target, criterion)


def _jacobian_at(fit: Solution, n: np.ndarray, d: np.ndarray) -> np.ndarray:
    """(runs, p) derivatives of ln y at runs of n parameters and d tokens by the solver's coordinates."""
    of_nd = fit.law.from_nd or dict  # the law's own inputs
    linear, ones = fit.linearized, np.ones(n.size)
    candidates = linear.problem.with_data(of_nd({"N": n, "D": d}), ones, ones)
    return candidates.residuals_and_jacobian(linear.z[None])[1][0].T


@dataclasses.dataclass(frozen=True, eq=False)
class _Choices:
    """Runs to choose among.

    Attributes:
      jacobian: (runs, p) derivatives of ln y.
      cost: (runs,) FLOPs.
      gradient: (p,) derivatives of ln N*(target).
      inverse: (p, p) inverse of the information of the runs that exist.
      criterion: "frontier" or "parameters".
    """

    jacobian: np.ndarray
    cost: np.ndarray
    gradient: np.ndarray
    inverse: np.ndarray
    criterion: str

    def best_plan(self, budget: float, most: int) -> tuple[list[int], list[float]]:
        """(indices, variance of ln N* after each in units of s^2) of at most `most` runs.

        Few large runs or many small ones: both are tried, the better is kept.

        Raises:
          FitError: the budget is below the cheapest run.
        """
        plans = [self._greedy(budget, count) for count in range(1, most + 1)]
        plans = [plan for plan in plans if plan[0]]
        if not plans:
            raise FitError(
                f"budget {budget:.3g} is below the cheapest candidate, {self.cost.min():.3g} FLOPs: pass smaller N, D"
            )
        return min(plans, key=lambda plan: plan[2])[:2]

    def _greedy(self, budget: float, count: int) -> tuple[list[int], list[float], float]:
        """`count` runs of about equal cost: (indices, variances, the criterion, lower is better)."""
        left, chosen, variances, gained, inverse = budget, [], [], 0.0, self.inverse
        determinant = self.criterion == "parameters"
        while len(chosen) < count:
            affordable = self.cost <= left / (count - len(chosen))
            if not affordable.any():
                break
            projected = self.jacobian @ inverse
            gain = np.einsum("ij,ij->i", projected, self.jacobian)  # variance of each candidate's prediction
            reduction = (projected @ self.gradient) ** 2 / (1 + gain)
            best = int(np.argmax(np.where(affordable, gain if determinant else reduction, -np.inf)))
            inverse = inverse - np.outer(projected[best], projected[best]) / (1 + gain[best])
            left, gained = left - self.cost[best], gained + np.log1p(gain[best])
            chosen.append(best)
            variances.append(max(float(self.gradient @ inverse @ self.gradient), 0.0))
        return chosen, variances, -gained if determinant else min(variances, default=np.inf)


def _choices(values: Any, seen: np.ndarray, name: str) -> np.ndarray:
    if values is None:
        return np.geomspace(np.min(seen) / 3, np.max(seen) * 3, 25)
    return np.atleast_1d(check_all_positive(values, name))


def _frontier_gradient(fit: Solution, target: float) -> np.ndarray:
    """(p,) derivatives of ln N*(target) by the solver's coordinates, by central differences of the closed form."""
    optimal_N = fit.law.optimal_N
    if optimal_N is None:
        raise FitError(
            f"{fit.law.name} has no closed-form frontier to plan for; use criterion='parameters' with chinchilla"
        )
    problem, z = fit.solved("next_runs")
    return gradient_by_z(problem, z, lambda params: np.log(optimal_N(params, target)))
