"""The compute-optimal frontier: the best N and D of each budget under a law."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from scaling_jax.fitting.data import check_all_positive, check_level, check_positive
from scaling_jax.fitting.errors import FitError
from scaling_jax.fitting.laws.base import Law
from scaling_jax.fitting.optimal.allocation import best_sizes, has_closed_form
from scaling_jax.fitting.solution import IntervalOf, Solution

FAR = 100.0  # times beyond the sizes of the data, after growing with C, from which the data do not constrain an answer


@dataclass(frozen=True, eq=False)
class Frontier:
    """Best N and D at each budget; arrays have the shape of C.

    Attributes:
      C: budgets, in the unit of the cost (training FLOPs for 6ND).
      N: best parameters.
      D: best tokens.
      loss: the law's value there.
      level: of the intervals; None without.
      interval: {"N", "D", "loss": (lower, upper)}, each shaped like C; None without a level.
      extrapolation: decades by which C lies above (or, negative, below) the budgets of the data; 0 inside.
      method: "closed form" or "numerical".
      warnings: reasons to doubt the answer, in sentences.
    """

    C: np.ndarray
    N: np.ndarray
    D: np.ndarray
    loss: np.ndarray
    level: float | None
    interval: dict | None
    extrapolation: np.ndarray
    method: str
    warnings: list = field(default_factory=list)

    @property
    def tokens_per_parameter(self) -> np.ndarray:
        """D / N."""
        return self.D / self.N

    def __repr__(self) -> str:
        lines = [f"frontier ({self.method})"]
        for i in np.ndindex(self.C.shape):
            line = f"  C {self.C[i]:.4g}: N* {self.N[i]:.4g}, D* {self.D[i]:.4g}, loss {self.loss[i]:.5g}"
            if self.interval:
                ends = ", ".join(f"{k} [{lo[i]:.4g}, {hi[i]:.4g}]" for k, (lo, hi) in self.interval.items())
                line += f"  {self.level:.0%}: {ends}"
            away = self.extrapolation[i]
            lines.append(
                line + (f"  ({abs(away):.1f} decades {'above' if away > 0 else 'below'} the data)" if away else "")
            )
        return "\n".join(lines + [f"  ! {w}" for w in self.warnings])


def frontier(
    fit: Solution,
    C: Any,
    level: float | None,
    interval_of: IntervalOf,
    *,
    cost: Callable[[Any, Any], Any] | None = None,
    inputs: Mapping[str, Any] | None = None,
    **options: Any,
) -> Frontier:
    """The `Frontier` of a fit: see `Fit.frontier` for the arguments."""
    budgets = _budgets(fit.law, C, inputs)
    shape, flat, log_loss = budgets.shape, budgets.ravel(), fit.objective is not None and fit.objective.log

    middle = middle_of(fit.ranges)

    def best(params: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        return best_sizes(fit.law, params, flat, cost=cost, inputs=inputs, middle=middle, **options)

    def in_logs(params: Mapping[str, np.ndarray]) -> np.ndarray:
        N, D, loss, _ = best(params)
        with np.errstate(all="ignore"):
            return np.stack([np.log(N), np.log(D), np.log(loss) if log_loss else loss], axis=1)

    N, D, loss, edge = best({k: np.array([v]) for k, v in fit.params.items()})
    interval = None
    if level is not None:
        check_level(level)
        ends = interval_of(in_logs, level)
        with np.errstate(over="ignore"):
            ends = [np.exp(ends[:, k]) if k < 2 or log_loss else ends[:, k] for k in range(3)]
        interval = {k: tuple(v.reshape(2, *shape)) for k, v in zip(("N", "D", "loss"), ends)}
    return Frontier(
        C=budgets,
        N=N.reshape(shape),
        D=D.reshape(shape),
        loss=loss.reshape(shape),
        level=level,
        interval=interval,
        extrapolation=_beyond(fit.ranges, N, D).reshape(shape),
        method="closed form" if has_closed_form(fit.law, cost, **options) else "numerical",
        warnings=list(_warnings(fit, flat, N[0], D[0], edge[0])),
    )


def _warnings(fit: Solution, budgets: np.ndarray, N: np.ndarray, D: np.ndarray, edge: np.ndarray) -> Iterator[str]:
    for c in budgets[edge]:
        yield f"no best size inside the search at C = {c:.4g}: a term has vanished (coefficient at its bound)"
    if "C" not in fit.ranges or "N" not in fit.ranges:
        return
    (n_low, n_high), (c_low, c_high) = fit.ranges["N"], fit.ranges["C"]
    for c, n, d in zip(budgets[~edge], N[~edge], D[~edge]):
        # N grows at most in proportion to C, or the law bends away from its trend inside the data.
        grown, shrunk = (max(ratio, 1.0) for ratio in (6.0 * n * d / c_high, c_low / (6.0 * n * d)))
        if n > FAR * grown * n_high or n < n_low / (FAR * shrunk):
            yield (
                f"N* = {n:.3g}, D* = {d:.3g} at C = {c:.4g} is far outside the data (N from {n_low:.3g} to "
                f"{n_high:.3g}); the fit does not constrain it"
            )


def middle_of(ranges: Mapping[str, tuple[float, float]]) -> tuple[float, float] | None:
    """(N, D) at the center of the data, in logarithms; None where the law has no compute."""
    if "C" not in ranges or "N" not in ranges:
        return None
    N, C = (float(np.sqrt(low) * np.sqrt(high)) for low, high in (ranges["N"], ranges["C"]))
    return N, C / (6.0 * N)


def _budgets(law: Law, C: Any, inputs: Any) -> np.ndarray:
    """C as an array, if the law has a frontier, C can be one and `inputs` are what the law reads besides."""
    if not isinstance(inputs or {}, Mapping):
        raise FitError(f'inputs={inputs!r} must be a dict of values or functions of (N, D), e.g. {{"U": 1e11}}.')
    for k, v in (inputs or {}).items():
        if k in ("N", "D") or k not in law.inputs:
            raise FitError(
                f"inputs: {law.name!r} reads {', '.join(law.inputs)}, and its frontier chooses N and D; not {k}."
            )
        if not callable(v):
            check_positive(v, f"inputs[{k!r}]", "1e11, or a function of (N, D)")
    missing = [k for k in law.inputs if k not in {"N", "D", *(inputs or {})}] if law.from_nd is None else []
    if missing or not law.lower_is_better:
        of_nd = {"N", "D"} & set(law.inputs) and law.lower_is_better
        way = f'give inputs={{"{missing[0]}": ...}}' if of_nd else "fit a law of a loss in N and D"
        raise FitError(f"{law.name!r} of {', '.join(law.inputs)} has no frontier of N and D as asked: {way}.")
    return check_all_positive(C, "C")


def _beyond(ranges: Mapping[str, tuple[float, float]], N: np.ndarray, D: np.ndarray) -> np.ndarray:
    """Decades of compute beyond the data's: positive above, negative below, 0 inside."""
    if "C" not in ranges:
        return np.zeros_like(N)
    low, high = ranges["C"]
    with np.errstate(all="ignore"):  # a vanished term gives 0 and infinity
        compute = 6.0 * N * D
        return np.maximum(np.log10(compute / high), 0.0) + np.minimum(np.log10(compute / low), 0.0)
