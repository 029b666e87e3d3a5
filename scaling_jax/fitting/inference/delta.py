"""Intervals of a fit by the delta method: first order, around the optimum, with the sandwich covariance."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping

import numpy as np

from scaling_jax.fitting.inference.covariance import delta_interval, gradient_by_z
from scaling_jax.fitting.solution import Solution

Params = Mapping[str, np.ndarray]


def interval_of(
    solution: Solution, function: Callable[[Params], np.ndarray], level: float, log: bool = False
) -> np.ndarray:
    """(2, ...) interval of anything computed from the parameters.

    Args:
      solution: a `Fit`.
      function: of natural-unit parameters, a dict of (s,) arrays; returns (s, ...).
      level: e.g. 0.9.
      log: whether to work on the logarithm of the function, for positive quantities.

    Raises:
      FitError: the parameters were given, not fitted.
    """
    problem, z = solution.coordinates("an interval")
    return delta_interval(problem, z, solution.covariance, function, level, log)


def intervals(solution: Solution, level: float) -> dict[str, tuple[float, float]]:
    """{name: (lower, upper)} of the fitted parameters and derived exponents of a fit."""
    solution.coordinates("an interval")
    found: dict[str, tuple[float, float]] = {}
    for k in solution.free:
        low, high = solution.law.bounds[k]
        if k in solution.at_bounds:
            found[k] = (low, high)
            continue
        ends = np.clip(interval_of(solution, _parameter(k), level, log=low >= 0), low, high)
        found[k] = (float(ends[0]), float(ends[1]))
    for k, of in solution.law.exponents.items():
        if k not in found:
            low, high = interval_of(solution, of, level)
            found[k] = (float(low), float(high))
    return found


def standard_errors(solution: Solution) -> dict[str, float]:
    """{name: standard error} of the fitted parameters and derived exponents of a fit."""
    problem, z = solution.coordinates("a standard error")
    quantities = dict(solution.law.exponents) | {k: _parameter(k) for k in solution.free}
    covariance, errors = solution.covariance, {}
    for k in (*solution.free, *(k for k in solution.law.exponents if k not in solution.free)):
        gradient = gradient_by_z(problem, z, quantities[k])
        with np.errstate(over="ignore", invalid="ignore"):  # beyond float64 there is no slope: the error is infinite
            variance = float(gradient @ covariance.matrix @ gradient)
        sure = k not in solution.at_bounds and np.isfinite(variance) and (covariance.dof > 0 or not gradient.any())
        errors[k] = float(np.sqrt(max(variance, 0.0))) if sure else np.inf
    return errors


def open_where_unmoved(solution: Solution, found: dict[str, tuple[float, float]]) -> dict[str, tuple[float, float]]:
    """Resampled intervals, replaced by the law's bounds where no resample moved what the data do not determine."""
    unmoved = [k for k, (low, high) in found.items() if low == high]
    errors = standard_errors(solution) if unmoved else {}
    bounds = solution.law.bounds
    return {**found, **{k: bounds.get(k, (-np.inf, np.inf)) for k in unmoved if np.isinf(errors[k])}}


def _parameter(name: str) -> Callable[[Params], np.ndarray]:
    return functools.partial(_value_of, name)


def _value_of(name: str, params: Params) -> np.ndarray:
    return params[name]
