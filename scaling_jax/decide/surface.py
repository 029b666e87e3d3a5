"""The loss of N and D that is decided by: the forecast of an analysis, or a published fit."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from scaling_jax import fitting
from scaling_jax.analysis import Analysis
from scaling_jax.analysis.fits import frontier_inputs, has_frontier, with_forecast
from scaling_jax.analysis.frames import rows_of
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
      law: chooses N* and D*, as on the frontier of the analysis; None for the model's own.
      inputs: of the law besides N and D.
    """

    model: fitting.Forecast | fitting.Fit
    cost: Callable | None
    largest: float
    level: float
    metric: str
    source: str
    law: fitting.Fit | None = None
    inputs: Mapping[str, Any] | None = None

    def flops(self, N: Any, D: Any) -> Any:
        """Training FLOPs."""
        return 6.0 * N * D if self.cost is None else self.cost(N, D)

    def loss(self, N: Any, D: Any) -> np.ndarray:
        """Expected loss; broadcasts."""
        found = self.model.predict({"N": N, "D": D})
        return np.asarray(found.value if isinstance(self.model, fitting.Forecast) else found, float)

    def run_interval(self, N: float, D: float) -> Ends | None:
        """Of the loss that one run will have; None for a published fit."""
        if isinstance(self.model, fitting.Fit):
            return None
        found = self.model.predict({"N": N, "D": D})
        return float(found.low), float(found.high)

    def optima(
        self, C: Sequence[float] | np.ndarray, max_N: float | None = None, cost: Callable | None = None
    ) -> tuple[list[Optimum], list[str]]:
        """The best runs of budgets in the unit of the cost, or none and why there are none."""
        budgets, cost = np.asarray(C, float), cost or self.cost
        try:
            if isinstance(self.model, fitting.Fit):
                plain = self.model.frontier(budgets, cost=cost, max_N=max_N)
                values = zip(budgets, plain.N, plain.D, plain.loss)
                return [Optimum(float(c), float(n), float(d), float(y)) for c, n, d, y in values], []
            found = self.model.frontier(budgets, cost=cost, max_N=max_N)
        except fitting.FitError as error:
            return [], [str(error)]
        if found.N is None or found.D is None or found.loss is None or found.interval is None:
            return [], list(found.reasons)
        rows = pd.DataFrame({"C": budgets, "N": found.N, "D": found.D})
        if self.law is not None:
            own = self.law.frontier(budgets, cost=cost, max_N=max_N, inputs=self.inputs)
            rows = rows.assign(N=own.N, D=own.D)
        return [
            Optimum(r.C, r.N, r.D, r.loss, (r.N_low, r.N_high), (r.D_low, r.D_high), (r.loss_low, r.loss_high))
            for r in rows_of(with_forecast(rows, self.model, found))
        ], []

    def rise(self, N: np.ndarray, D: np.ndarray, best: Optimum) -> np.ndarray:
        """Relative rise of the loss from a best run's to that of others, by what chose the best."""
        if self.law is None:
            return self.loss(N, D) / float(self.loss(best.N, best.D)) - 1
        law, sizes, tokens = self.law, np.append(N, best.N), np.append(D, best.D)
        loss = law.law(law.params, law_columns(law.law, sizes, tokens, self.inputs))
        return loss[:-1] / loss[-1] - 1

    @classmethod
    def of(cls, analysis: Analysis) -> Surface | None:
        """The forecast of an analysis; None where there is none."""
        if analysis.forecast is None:
            return None
        largest = float(analysis.runs.chosen.C.max())
        source = f"{analysis.used} runs of {analysis.name}"
        law, inputs = analysis.fit, None
        if law is not None and has_frontier(law.law):
            inputs = frontier_inputs(law.law, analysis.runs, analysis.settings)
        else:
            law = None
        level = analysis.settings.level
        return cls(analysis.forecast, analysis.cost, largest, level, analysis.metric, source, law, inputs)

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
