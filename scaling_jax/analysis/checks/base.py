"""A check, and the evidence that checks look at."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import numpy as np
import pandas as pd

from scaling_jax import fitting
from scaling_jax.analysis.fits import Fitted
from scaling_jax.analysis.hold_out import HoldOut
from scaling_jax.analysis.isoflop import Sweeps
from scaling_jax.analysis.runs import Runs
from scaling_jax.analysis.shifts import Linearized
from scaling_jax.study import Fit as Settings

Status = Literal["pass", "warn", "fail", "cannot tell"]
PASS, WARN, FAIL, CANNOT_TELL = "pass", "warn", "fail", "cannot tell"


@dataclasses.dataclass(frozen=True)
class Check:
    """One thing that a careful reader would look at before believing a ladder.

    Attributes:
      name: what is checked, as it should be.
      status: "pass", "warn", "fail", or "cannot tell" where the runs do not allow the check.
      detail: a sentence with the numbers.
      runs: the run_ids (or scales) it is about.
      decisive: whether its failure leaves no answer at all.
    """

    name: str
    status: Status
    detail: str
    runs: tuple[str, ...] = ()
    decisive: bool = False


@dataclasses.dataclass(frozen=True)
class Evidence:
    """Everything that checks read.

    Attributes:
      runs: of the table.
      settings: of the fit.
      fitted: the law through all chosen runs, or None; `no_fit` says why not.
      linearized: the law at its fit, for shift tests; None without a fit of positive y.
      hold_out: blind prediction of the most expensive runs, or None; `no_hold_out` says why.
      sweeps: IsoFLOP curves, or None.
      approaches: N* and exponents by approach; columns approach, a, low, high, N.
      frontier: rows C, N, D, loss with intervals, and beyond = C / largest C.
      curve: the same, dense over the ladder's own compute.
      no_frontier: why there is none.
      forecast: `fitting.Forecast`, or None.
      without_scale: scale -> N* at the first target when it is left out.
      exponents: label -> exponent a under another count of N or another objective.
      curves: learning curves, or None.
    """

    runs: Runs
    settings: Settings
    fitted: Fitted | None
    no_fit: str
    linearized: Linearized | None
    hold_out: HoldOut | None
    no_hold_out: str
    sweeps: Sweeps | None
    approaches: pd.DataFrame
    frontier: pd.DataFrame
    curve: pd.DataFrame
    no_frontier: str
    forecast: Any
    without_scale: dict[str, float]
    exponents: dict[str, float]
    curves: pd.DataFrame | None

    @property
    def fit(self) -> fitting.Fit | None:
        """The law's fit."""
        return None if self.fitted is None else self.fitted.fit

    @property
    def of_nd(self) -> bool:
        """Whether the law has a frontier of N and D and the runs have both."""
        fit = self.fit
        return fit is not None and fit.law.nd(fit.data) is not None and fit.law.a_loss and self.runs.has_compute

    @property
    def cells(self) -> int:
        """Distinct points that were trained: repeats by seed count once."""
        inputs = (
            np.column_stack([np.asarray(v, float) for v in self.fit.data.values()]) if self.fit else np.empty((0, 1))
        )
        return len(np.unique(inputs, axis=0))


def percent(value: float) -> str:
    """A shift of ln y as a signed percentage."""
    return f"{100 * np.expm1(value):+.2g}%" if abs(value) < 0.0995 else f"{100 * np.expm1(value):+.0f}%"


def direction(value: float) -> str:
    """4.8% above, 2.1% below."""
    return f"{abs(100 * np.expm1(value)):.2g}% {'above' if value > 0 else 'below'}"
