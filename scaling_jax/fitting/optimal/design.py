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
      target: the compute it refers to. criterion: what was optimized.
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
    """Chooses runs greedily, each the most telling among those that cost at most an equal share of what is left.

    To first order a run at (N, D) adds g g' / s^2 to the information matrix, with g the slope of ln y by the
    parameters there and s the robust residual scale of the fit. "frontier" reduces the variance of ln N*(target)
    (c-optimal), "parameters" raises the determinant (D-optimal; Fedorov 1972).

    Args:
      fit: a `Fit` of a law with inputs N and D and a frontier.
      budget: FLOPs (6 N D) to spend on the next runs.
      target: compute of the run that is being planned; None takes ten times the largest of the data.
      runs: at most this many.
      N, D: sizes and tokens to choose among, every combination; None takes 25 values each from a third of the
        smallest to three times the largest in the data.
      criterion: "frontier" or "parameters".

    Raises:
      FitError: the law has no N and D, an unknown criterion, or nothing fits into the budget.
    """
    if criterion not in CRITERIA:
        raise FitError(f"criterion is {criterion!r}: choose one of {', '.join(CRITERIA)}")
    of_nd = fit.law.from_nd or dict  # the law's own inputs
    if set(fit.law.inputs) != {"N", "D"} and fit.law.from_nd is None:
        raise FitError(f"{fit.law.name} takes {', '.join(fit.law.inputs)}: next runs are planned over N and D")
    data, _, _ = fit.observed("next_runs")
    check_positive(budget, "budget", "1e20"), check_int(runs, "runs", 1)
    target = 10 * fit.ranges["C"][1] if target is None else check_positive(target, "target", "1e22")
    seen = fit.law.nd(data) or (data["N"], data["D"])
    grid_n, grid_d = _choices(N, seen[0], "N"), _choices(D, seen[1], "D")
    n, d = (x.ravel() for x in np.meshgrid(grid_n, grid_d, indexing="ij"))
    cost = 6 * n * d
    linear = fit.linearized
    candidates = linear.problem.with_data(of_nd({"N": n, "D": d}), np.ones(n.size), np.ones(n.size))
    jacobian = candidates.residuals_and_jacobian(linear.z[None])[1][0].T
    unit = np.maximum(
        np.linalg.norm(linear.jacobian, axis=0), 1e-300
    )  # every parameter in units of its own information
    jacobian, known = jacobian / unit, linear.jacobian / unit
    gradient = _frontier_gradient(fit, target) / unit
    inverse = np.linalg.pinv(known.T @ known, rcond=1e-12, hermitian=True)
    # Few large runs or many small ones: both are tried, the better is kept.
    plans = [_greedy(jacobian, cost, gradient, inverse, budget, count, criterion) for count in range(1, runs + 1)]
    plans = [plan for plan in plans if plan[0]]
    if not plans:
        raise FitError(
            f"budget {budget:.3g} is below the cheapest candidate, {cost.min():.3g} FLOPs: pass smaller N, D"
        )
    chosen, variances, _ = min(plans, key=lambda plan: plan[2])
    scale = max(linear.scale, 1e-300)
    records = [(n[i], d[i], cost[i], scale * np.sqrt(v)) for i, v in zip(chosen, variances)]
    before = scale * np.sqrt(gradient @ inverse @ gradient)
    return Design(
        runs=np.array(records, dtype=RUNS).view(np.recarray),
        before=float(before),
        target=target,
        criterion=criterion,
    )


def _greedy(
    jacobian: np.ndarray,
    cost: np.ndarray,
    gradient: np.ndarray,
    inverse: np.ndarray,
    budget: float,
    count: int,
    criterion: str,
) -> tuple[list[int], list[float], float]:
    """`count` runs of about equal cost.

    Returns:
      (indices, variance of ln N* after each in units of s^2, what the criterion makes small).
    """
    left, chosen, variances, gained = budget, [], [], 0.0
    while len(chosen) < count:
        affordable = cost <= left / (count - len(chosen))
        if not affordable.any():
            break
        pulled = jacobian @ inverse
        gain = np.einsum("ij,ij->i", pulled, jacobian)  # variance of each candidate's prediction
        reduction = (pulled @ gradient) ** 2 / (1 + gain)
        best = int(np.argmax(np.where(affordable, gain if criterion == "parameters" else reduction, -np.inf)))
        inverse = inverse - np.outer(pulled[best], pulled[best]) / (1 + gain[best])
        left, gained = left - cost[best], gained + np.log1p(gain[best])
        chosen.append(best)
        variances.append(max(float(gradient @ inverse @ gradient), 0.0))
    return chosen, variances, -gained if criterion == "parameters" else min(variances, default=np.inf)


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
