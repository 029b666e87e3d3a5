"""A law with its parameters and the record of the search, the basis of every interval and diagnostic."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from scaling_jax.charts import figure_of
from scaling_jax.fitting import plots
from scaling_jax.fitting.errors import FitError
from scaling_jax.fitting.inference.covariance import Covariance, covariance
from scaling_jax.fitting.inference.linearized import Linearized, linearize
from scaling_jax.fitting.laws.base import Law
from scaling_jax.fitting.objectives import Objective
from scaling_jax.fitting.solver._problem import Coordinates, Problem
from scaling_jax.fitting.solver._search import Certificate

_ABSENT: Any = None  # default of attributes that every fit to data has


class IntervalOf(Protocol):
    """A source of intervals: the delta method of a fit, or its bootstrap."""

    def __call__(
        self, function: Callable[[Mapping[str, np.ndarray]], np.ndarray], level: float, log: bool = False
    ) -> np.ndarray:
        """(2, ...) interval of function(params), which takes a dict of (s,) arrays and returns (s, ...)."""
        ...


@dataclass(frozen=True, eq=False, repr=False)
class Solution:
    """A law with its parameters, fitted or given; the base of `Fit`.

    Attributes:
      law: the `Law`.
      params: fitted and fixed parameters in natural units.
      objective: what was minimized; None where the parameters were given.
      objective_value: its value, a SUM over points; nan where the parameters were given.
      converged: whether the optimum is certified (relative gradient <= 1e-8); True where the parameters were given.
      certificate: a `Certificate`: gradient, how many of how many starts agree, the next best optimum; or None.
      fixed: parameters that were not fitted.
      seed: of the starting points.
      n: number of rows.
      duplicates: how many of them repeat an earlier row exactly.
      ranges: {input: (min, max)} of the rows with positive weight, and "C" for 6ND where the law has N and D.
      data_hash: of the inputs, y and weights.
      versions: of the packages that made the fit.
      data: {input: (n,)}; None without data, as are y (n,), weights (n,) and clusters ((n,) labels).
      problem: the fit as the solver sees it, a `Problem` with the data, or only its `Coordinates` on a loaded fit; None
        where the parameters were given.
      z: (p,) the optimum in the solver's coordinates.
    """

    law: Law
    params: dict[str, float]
    objective: Objective = _ABSENT
    objective_value: float = float("nan")
    converged: bool = True
    certificate: Certificate = _ABSENT
    fixed: dict[str, float] = field(default_factory=dict)
    seed: int = 0
    n: int = 0
    duplicates: int = 0
    ranges: dict[str, tuple[float, float]] = field(default_factory=dict)
    data_hash: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    # None where the fit has no data: `observed` and `solved` say so.
    data: dict[str, np.ndarray] = _ABSENT
    y: np.ndarray = _ABSENT
    weights: np.ndarray = _ABSENT
    clusters: np.ndarray | None = None
    problem: Coordinates | None = None
    z: np.ndarray | None = None
    saved_covariance: Covariance | None = None

    @property
    def free(self) -> tuple[str, ...]:
        """Names of the parameters that were fitted, in the law's order; none where they were given."""
        return () if self.problem is None else self.problem.free

    def plot(self, name: str | None = None) -> Any:
        """A `matplotlib.figure.Figure` of the fit, which notebooks show.

        Args:
          name: "n_and_d" (the law cut at each amount of data and at each size), "surface" (contour lines over N and D),
            "law" (of one input), "residuals", or "parameters" (bootstrap and profile of each); None takes the law.

        Raises:
          FitError: no such figure of this law, or a fit without data.
        """
        return figure_of(plots.chart(self, name))

    @property
    def residuals(self) -> np.ndarray:
        """(n,) residuals in the objective's space, e.g. ln y - ln f."""
        problem, z = self.solved("residuals")
        return problem.residuals(z[None])[0]

    @property
    def at_bounds(self) -> dict[str, str]:
        """{parameter: "lower" or "upper"} for those whose optimum is at an end of its range."""
        if self.problem is None or self.z is None:
            return {}
        low, high = self.z <= self.problem.lower, self.z >= self.problem.upper
        return {k: "lower" if lo else "upper" for k, lo, hi in zip(self.free, low, high) if lo or hi}

    @property
    def exponents(self) -> dict[str, float]:
        """Derived exponents, e.g. {"a": beta / (alpha + beta), "b": ...}: N* ~ C^a, D* ~ C^b."""
        return {k: float(of(self.params)) for k, of in self.law.exponents.items()}

    @cached_property
    def covariance(self) -> Covariance:
        """`Covariance` of the solver's coordinates, robust to unequal noise and to clusters."""
        if self.saved_covariance is not None:
            return self.saved_covariance
        problem, z = self.solved("an interval")
        return covariance(problem, z, self.clusters)

    @cached_property
    def linearized(self) -> Linearized:
        """The fit to first order: residuals, jacobian, leverage and robust scale at the optimum."""
        return linearize(*self.solved("this diagnostic"))

    def solved(self, what: str) -> tuple[Problem, np.ndarray]:
        """The problem on its data and the optimum z (p,).

        Args:
          what: what asks for them, for the message.

        Raises:
          FitError: the fit has no data: it was loaded from JSON, or its parameters were given.
        """
        if not isinstance(self.problem, Problem) or self.z is None:
            raise FitError(f"{what} needs the data, and {self._without_data()}; fit again with fitting.fit.")
        return self.problem, self.z

    def coordinates(self, what: str) -> tuple[Coordinates, np.ndarray]:
        """The solver's coordinates and the optimum z (p,).

        Args:
          what: what asks for them, for the message.

        Raises:
          FitError: the parameters were given rather than fitted.
        """
        if self.problem is None or self.z is None:
            raise FitError(f"{what} needs a fitted optimum, and {self._without_data()}; fit with fitting.fit.")
        return self.problem, self.z

    def observed(self, what: str) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
        """Inputs {name: (n,)}, y (n,) and weights (n,).

        Args:
          what: what asks for them, for the message.

        Raises:
          FitError: the fit has no data.
        """
        if self.data is None or self.y is None or self.weights is None:
            raise FitError(f"{what} needs the data, and {self._without_data()}; fit again with fitting.fit.")
        return self.data, self.y, self.weights

    def _without_data(self) -> str:
        if self.problem is None:
            return f"the parameters of this {self.law.name} were given, not fitted"
        return "a fit loaded from JSON does not carry it"
