"""A check, and the evidence that checks look at."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, Protocol

import numpy as np
import pandas as pd

from scaling_jax import fitting
from scaling_jax.analysis.hold_out import HoldOut
from scaling_jax.analysis.isoflop import Sweeps
from scaling_jax.analysis.runs import Runs
from scaling_jax.analysis.shifts import Linearized
from scaling_jax.study import Fit as Settings

Status = Literal["pass", "warn", "fail", "cannot tell"]
PASS, WARN, FAIL, CANNOT_TELL = "pass", "warn", "fail", "cannot tell"
MAX_GROUPS = 40  # scales or budgets that are compared one by one


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


class Evidence(Protocol):
    """The part of an `Analysis` that checks read."""

    @property
    def runs(self) -> Runs:
        """The runs of the table."""
        ...

    @property
    def settings(self) -> Settings:
        """Settings of the fit."""
        ...

    @property
    def fit(self) -> fitting.Fit | None:
        """The law through all chosen runs, or None; `no_fit` says why not."""
        ...

    @property
    def no_fit(self) -> str:
        """The reason for no fit."""
        ...

    @property
    def linearized(self) -> Linearized | None:
        """The law at its fit, for shift tests; None without a fit of positive y."""
        ...

    @property
    def hold_out(self) -> HoldOut | None:
        """Blind prediction of the most expensive runs."""
        ...

    @property
    def no_hold_out(self) -> str:
        """The reason where there is none."""
        ...

    @property
    def isoflop(self) -> Sweeps:
        """IsoFLOP curves."""
        ...

    @property
    def approaches(self) -> pd.DataFrame:
        """N* and exponents by approach; columns approach, a, low, high, N."""
        ...

    @property
    def frontier(self) -> pd.DataFrame:
        """Rows C, N, D, loss with intervals, and beyond = C / largest C."""
        ...

    @property
    def curve(self) -> pd.DataFrame:
        """The same, dense."""
        ...

    @property
    def no_frontier(self) -> str:
        """The reason where there is none."""
        ...

    @property
    def targets(self) -> tuple[float, ...]:
        """Compute beyond the ladder at which the frontier is read off, ascending."""
        ...

    def forecast_frontier(self, C: Any) -> Any:
        """The forecast's frontier at C, or None without a forecast."""
        ...

    @property
    def without_scale(self) -> dict[str, float]:
        """Scale -> N* at the first target when it is left out."""
        ...

    @property
    def exponents(self) -> dict[str, float]:
        """Exponent a under other counts of N and objectives."""
        ...

    @property
    def curves(self) -> pd.DataFrame | None:
        """Learning curves."""
        ...


def of_nd(e: Evidence) -> bool:
    """Returns True where the law has a frontier of N and D and the runs have both."""
    return (
        e.fit is not None and e.fit.law.nd(e.fit.data) is not None and e.fit.law.lower_is_better and e.runs.has_compute
    )


def cells(e: Evidence) -> int:
    """Distinct points that were trained: repeats by seed count once."""
    if e.fit is None:
        return 0
    return len(pd.DataFrame(dict(e.fit.data)).drop_duplicates())


def percent(value: float) -> str:
    """A shift of ln y as a signed percentage."""
    return f"{100 * np.expm1(value):+.2g}%" if abs(value) < 0.0995 else f"{100 * np.expm1(value):+.0f}%"


def direction(value: float) -> str:
    """4.8% above, 2.1% below."""
    return f"{_two(abs(100 * np.expm1(value)))}% {'above' if value > 0 else 'below'}"


def _two(value: float) -> str:
    return f"{value:.2g}" if value < 99.5 else f"{value:.0f}"
