"""Power laws y = k x^p, and the pair N* ~ C^a, D* ~ C^b that approaches 1 and 2 read off the runs."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from scaling_jax.fitting.data import check_all_positive
from scaling_jax.fitting.errors import FitError
from scaling_jax.fitting.optimal.sweeps import as_columns


@dataclasses.dataclass(frozen=True)
class PowerLaw:
    """y = coefficient * x^exponent by least squares in logs.

    Attributes:
      exponent: p of y = k x^p.
      coefficient: k.
      stderr: standard error of the exponent from the scatter about the line (nan for two points).
      r2: share of the weighted variance of ln y that the line explains.
      scatter: sqrt(chi^2 / (n - 2)): scatter of the points in units of their log_std.
    """

    exponent: float
    coefficient: float
    stderr: float
    r2: float
    scatter: float

    def __call__(self, x: Any) -> np.ndarray:
        """The law at x, a number or an array."""
        return self.coefficient * np.asarray(x, np.float64) ** self.exponent


def power_law(x: Any, y: Any, log_std: Any = None) -> PowerLaw:
    """Fits ln y = ln k + p ln x, weighted by 1 / log_std^2 when given: optima to exponents.

    Args:
      x: (n,) positive, e.g. budgets.
      y: (n,) positive, e.g. their optimal N.
      log_std: (n,) standard deviation of ln y; None weights all points equally.

    Raises:
      FitError: fewer than two distinct x, or a value that is not finite and positive.

    Example:
      >>> from scaling_jax import fitting
      >>> round(fitting.power_law([1e18, 1e19, 1e20], [1e8, 3e8, 9e8]).exponent, 3)
      0.477
    """
    columns = as_columns(x=x, y=y, log_std=np.ones(np.size(x)) if log_std is None else log_std)
    log_x, log_y, weight = np.log(columns["x"]), np.log(columns["y"]), columns["log_std"] ** -2.0
    if np.ptp(log_x) == 0:
        raise FitError(f"a power law needs two distinct x, and all are {columns['x'][0]:g}")
    mean_x, mean_y = np.average(log_x, weights=weight), np.average(log_y, weights=weight)
    dx, dy = log_x - mean_x, log_y - mean_y
    exponent = np.sum(weight * dx * dy) / np.sum(weight * dx**2)
    chi2 = np.sum(weight * (dy - exponent * dx) ** 2)
    freedom = log_x.size - 2
    scatter = np.sqrt(chi2 / freedom) if freedom else np.nan
    total = np.sum(weight * dy**2)
    return PowerLaw(
        exponent=float(exponent),
        coefficient=float(np.exp(mean_y - exponent * mean_x)),
        stderr=float(scatter / np.sqrt(np.sum(weight * dx**2))),
        r2=float(1 - chi2 / total) if total else 1.0,
        scatter=float(scatter),
    )


@dataclasses.dataclass(frozen=True, repr=False)
class Allocation:
    """Optimal sizes read off the runs, and the power laws N* ~ C^a and D* ~ C^b through them.

    Attributes:
      optima: record array with one row per optimum, in order of C: `.C .N .D .loss`.
      N_law: `PowerLaw` of N* in C.
      D_law: `PowerLaw` of D* in C.
      samples: (resamples, 2) exponents a, b of resampled runs.
      warnings: reasons why the exponents are less certain than they look, in sentences.
    """

    optima: np.recarray
    N_law: PowerLaw
    D_law: PowerLaw
    samples: np.ndarray
    warnings: list[str]

    @property
    def a(self) -> float:
        """Exponent of N* ~ C^a."""
        return self.N_law.exponent

    @property
    def b(self) -> float:
        """Exponent of D* ~ C^b."""
        return self.D_law.exponent

    def interval(self, level: float = 0.95) -> dict[str, tuple[float, float]]:
        """{"a": (lower, upper), "b": (lower, upper)} of the exponents."""
        raise NotImplementedError

    def frontier(self, C: Any) -> np.recarray:
        """N*(C) and D*(C) of the power laws, as a record array with `.C .N .D`."""
        C = np.atleast_1d(check_all_positive(C, "C"))
        return np.rec.fromarrays([C, self.N_law(C), self.D_law(C)], dtype=[(k, np.float64) for k in "CND"])

    def _exponent_lines(self) -> list[str]:
        ends = self.interval(0.95)
        laws = (("a", "N", self.N_law), ("b", "D", self.D_law))
        return [
            f"  {k} = {law.exponent:.4f} [{ends[k][0]:.4f}, {ends[k][1]:.4f}]   {name}* = {law.coefficient:.4g} C^{k}"
            + ("   (95%)" if k == "b" else "")
            for k, name, law in laws
        ]
