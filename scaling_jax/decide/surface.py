"""The loss of N and D that is decided by: the forecast of an analysis, or a published fit."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from scaling_jax import fitting
from scaling_jax.analysis import Analysis
from scaling_jax.analysis.fits import frontier_inputs, has_frontier
from scaling_jax.analysis.frames import rows_of
from scaling_jax.analysis.optima import forecast_runs
from scaling_jax.errors import UserError
from scaling_jax.fitting.optimal.allocation import law_columns

Ends = tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Optimum:
    """The best run of a budget.

    Attributes:
      C, N, D, loss: FLOPs, parameters, tokens, expected loss.
      N_interval, D_interval: of the optimum; None for a published fit.
      run_interval: of the loss that one run there will have; None for a published fit.
    """

    C: float
    N: float
    D: float
    loss: float
    N_interval: Ends | None = None
    D_interval: Ends | None = None
    run_interval: Ends | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Surface:
    """Losses over N and D, with what a run costs.

    Attributes:
      model: a `fitting.Forecast`, or a `fitting.Fit` without data.
      cost: cost(N, D) in FLOPs; None for 6ND.
      largest: FLOPs of the largest run behind it; nan for a published fit.
      level: of intervals.
      metric: what the "loss" is.
      source: where the numbers come from.
      analysis: whose best runs these are; None for a published fit.
    """

    model: fitting.Forecast | fitting.Fit
    cost: Callable | None
    largest: float
    level: float
    metric: str
    source: str
    analysis: Analysis | None = None

    def flops(self, N: Any, D: Any) -> Any:
        """Training FLOPs."""
        return 6.0 * N * D if self.cost is None else self.cost(N, D)

    def loss(self, N: Any, D: Any) -> np.ndarray:
        """Expected loss; broadcasts."""
        if isinstance(self.model, fitting.Fit):
            return np.asarray(self.model.predict({"N": N, "D": D}), float)
        return np.asarray(forecast_runs(self.model, N, D).value, float)

    def run_interval(self, N: float, D: float) -> Ends | None:
        """Of the loss that one run will have; None for a published fit."""
        if isinstance(self.model, fitting.Fit):
            return None
        found = forecast_runs(self.model, N, D)
        return float(found.low), float(found.high)

    def optima(
        self, C: Sequence[float] | np.ndarray, max_N: float | None = None, cost: Callable | None = None
    ) -> tuple[list[Optimum], list[str]]:
        """The best runs of budgets in the unit of the cost, or none and why there are none."""
        budgets = np.asarray(C, float)
        try:
            if self.analysis is not None:
                best = self.analysis.best_runs(budgets, cost, max_N)
                if best.reasons or best.rows.N_low.isna().any():
                    return [], list(best.reasons)
                return [
                    Optimum(r.C, r.N, r.D, r.loss, (r.N_low, r.N_high), (r.D_low, r.D_high), (r.loss_low, r.loss_high))
                    for r in rows_of(best.rows)
                ], []
            assert isinstance(self.model, fitting.Fit)
            plain = self.model.frontier(budgets, cost=cost or self.cost, max_N=max_N)
        except fitting.FitError as error:
            return [], [str(error)]
        values = zip(budgets, plain.N, plain.D, plain.loss)
        return [Optimum(float(c), float(n), float(d), float(y)) for c, n, d, y in values], []

    def rise(self, N: np.ndarray, D: np.ndarray, best: Optimum) -> np.ndarray:
        """Relative rise of the loss from a best run's to that of others, by the law that chose the best."""
        fit = self.model if self.analysis is None else self.analysis.fit
        if not isinstance(fit, fitting.Fit) or not has_frontier(fit.law):
            return self.loss(N, D) / float(self.loss(best.N, best.D)) - 1
        inputs = None
        if self.analysis is not None:
            inputs = frontier_inputs(fit.law, self.analysis.runs, self.analysis.settings)
        loss = fit.law(fit.params, law_columns(fit.law, np.append(N, best.N), np.append(D, best.D), inputs))
        return loss[:-1] / loss[-1] - 1

    @classmethod
    def of(cls, analysis: Analysis) -> Surface | None:
        """The forecast of an analysis; None where there is none."""
        if analysis.forecast is None:
            return None
        largest = float(analysis.runs.chosen.C.max())
        source = f"{analysis.used} runs of {analysis.name}"
        level = analysis.settings.level
        return cls(analysis.forecast, analysis.cost, largest, level, analysis.metric, source, analysis)

    @classmethod
    def published(cls, name: str) -> Surface:
        """A published fit of a loss in N and D.

        Raises:
          UserError: a fit of something else.
          FitError: an unknown name.
        """
        fit = fitting.published[name]
        if not has_frontier(fit.law) or not set(fit.law.inputs) <= {"N", "D"}:
            raise UserError(
                f"--published={name} is a fit of {', '.join(fit.law.inputs)}: give one of a loss in N and D"
            )
        paper = str(fitting.published.source[name]).splitlines()[2]
        return cls(fit, None, float("nan"), 0.9, "loss", f"{name} ({paper})")
