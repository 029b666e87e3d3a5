"""The figures of an Analysis by name: `results.plot.frontier()`."""

from __future__ import annotations

import dataclasses
import io

from matplotlib.figure import Figure

from scaling_jax.analysis import Analysis
from scaling_jax.errors import UserError
from scaling_jax.report import figures
from scaling_jax.report.slices import has_slices, slices

DPI = 150


@dataclasses.dataclass(frozen=True)
class Plots:
    """Draws figures of an analysis; each method returns a `matplotlib.figure.Figure` that notebooks show.

    Attributes:
      analysis: what is drawn.
    """

    analysis: Analysis

    def frontier(self) -> Figure:
        """Loss against compute: runs, the fitted frontier out to the targets, held-out runs and their prediction."""
        return figures.loss_vs_compute(self._with(self.analysis.runs.has_compute, "N, D and C of its runs"))

    def learning_curves(self) -> Figure:
        """Training loss against tokens and FLOPs."""
        return figures.learning_curves(self._with(self.analysis.curves is not None, "learning curves"))

    def isoflop(self) -> Figure:
        """Loss against N at equal compute."""
        return figures.isoflop(
            self._with(len(self.analysis.isoflop.points) > 0, "budgets of compute that scales share")
        )

    def residuals(self) -> Figure:
        """Predicted against observed, and observed / predicted - 1 against compute."""
        return figures.residuals(self._with(self.analysis.fit is not None, "a law"))

    def allocation(self) -> Figure:
        """N* and D* against compute, beside the other approaches."""
        return figures.allocation(self._with(len(self.analysis.frontier) > 0, "a frontier"))

    def n_and_d(self) -> Figure:
        """The law cut at each amount of data and at each size."""
        return slices(self._with(has_slices(self.analysis), "a law of N and D"))

    def law(self) -> Figure:
        """Runs and curve of a law of one input."""
        fit = self.analysis.fit
        return figures.law_of_one(self._with(fit is not None and len(fit.law.inputs) == 1, "a law of one input"))

    def all(self) -> dict[str, Figure]:
        """Every figure that the runs allow, by file stem."""
        return figures.draw(self.analysis)

    def _with(self, possible: bool, needed: str) -> Analysis:
        if not possible:
            raise UserError(f"this figure needs {needed}, which {self.analysis.name} does not have")
        return self.analysis


def png(figure: Figure) -> bytes:
    """A figure as the content of a .png."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    return buffer.getvalue()
