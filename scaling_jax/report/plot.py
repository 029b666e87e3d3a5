"""The figures of an Analysis by name: `results.plot.frontier()`."""

from __future__ import annotations

import dataclasses
from typing import Any

from scaling_jax.analysis import Analysis
from scaling_jax.charts import figure_of
from scaling_jax.errors import UserError
from scaling_jax.report import figures


@dataclasses.dataclass(frozen=True)
class Plots:
    """Draws figures of an analysis; each method returns a `matplotlib.figure.Figure` that notebooks show.

    Attributes:
      analysis: what is drawn.
    """

    analysis: Analysis

    def frontier(self) -> Any:
        """Loss against compute: runs, the fitted frontier out to the targets, held-out runs and their prediction."""
        return self._draw("frontier", "N, D and C of its runs")

    def surface(self) -> Any:
        """Contour lines of the law over N and D, with the runs."""
        return self._draw("surface", "a law of N and D")

    def isoflop(self) -> Any:
        """Loss against N at equal compute."""
        return self._draw("isoflop", "budgets of compute that scales share")

    def residuals(self) -> Any:
        """observed / predicted - 1 by size and budget."""
        return self._draw("residuals", "a law")

    def learning_curves(self) -> Any:
        """Training loss against tokens, and collapsed."""
        return self._draw("learning_curves", "learning curves")

    def sweeps(self) -> Any:
        """Loss against the rate (and batch size) by scale, with the optimum between the values."""
        return self._draw("sweeps", "several learning rates or batch sizes at a scale and budget")

    def parameters(self) -> Any:
        """Bootstrap and profile of the exponents and the floor."""
        return self._draw("parameters", "a law with a bootstrap")

    def allocation(self) -> Any:
        """N* and D* against compute, beside other laws and approaches."""
        return self._draw("allocation", "a frontier")

    def approaches(self) -> Any:
        """N* and its exponent by every law and approach."""
        return self._draw("approaches", "a frontier")

    def interval(self) -> Any:
        """What the forecast's interval consists of."""
        return self._draw("interval", "a forecast")

    def n_and_d(self) -> Any:
        """The law cut at each amount of data and at each size."""
        return self._draw("n_and_d", "a law of N and D")

    def law(self) -> Any:
        """Runs and curve of a law of one input."""
        return self._draw("law", "a law of one input")

    def cost(self) -> Any:
        """Speed, time of a step and time of a run."""
        return self._draw("cost", "the seconds of its runs")

    def all(self) -> dict[str, Any]:
        """Every figure that the runs allow, by file stem."""
        return {name: figure_of(chart) for name, chart in figures.charts(self.analysis).items()}

    def _draw(self, name: str, needed: str) -> Any:
        known = figures.catalog(self.analysis)
        if name not in known:
            raise UserError(f"this figure needs {needed}, which {self.analysis.name} does not have")
        return figure_of(known[name]())
