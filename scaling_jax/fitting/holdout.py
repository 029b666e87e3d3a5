"""How well a law fitted to small runs predicts large ones, and how far a prediction is beyond the data."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from scaling_jax.fitting.data import (
    as_column,
    check_positive,
    column_y,
    inputs_of,
    label_column,
    names_of,
    points_of,
    resolve_column,
    scale_column,
)
from scaling_jax.fitting.errors import FitError
from scaling_jax.fitting.fit import Fit, fit
from scaling_jax.fitting.laws.base import Law
from scaling_jax.fitting.laws.registry import find_law


@dataclasses.dataclass(frozen=True, repr=False)
class Holdout:
    """A fit below a cut, judged above it. Made by `holdout`.

    Attributes:
      fit: the `Fit` of the runs below the cut.
      cut: runs with C < cut were fitted.
      train: (n,) mask of the fitted rows.
      test: (n,) mask of the judged rows.
      errors: ln prediction - ln y of the test rows.
    """

    fit: Fit
    cut: float
    train: np.ndarray
    test: np.ndarray
    errors: np.ndarray

    @property
    def rmsle(self) -> float:
        """Root mean square of the errors."""
        return float(np.sqrt(np.mean(self.errors**2)))

    @property
    def bias(self) -> float:
        """Mean of the errors; positive where the law predicts too much."""
        return float(np.mean(self.errors))

    def __repr__(self) -> str:
        return (
            f"fitted on {int(self.train.sum())} runs below C = {self.cut:.3g}, judged on {int(self.test.sum())} above: "
            f"RMSLE {self.rmsle:.5f}, bias {self.bias:+.5f} in ln y"
        )


def holdout(law: str | Law, data: Mapping, y: Any, *, cut: float, C: Any = None, **options: Any) -> Holdout:
    """Fits the runs with C < cut and scores the prediction of the others.

    Args:
      law: a name or a `Law`, as for `fitting.fit`.
      data: columns of its inputs.
      y: (n,) positive, or the name of a column.
      cut: the compute (or other scale) that separates fitted from judged runs.
      C: (n,) the scale that is cut, or the name of a column; None takes 6 N D, or the law's single input.
      options: objective=, seed= and so on, for `fitting.fit`; weights= and clusters= are cut with the rows.

    Raises:
      FitError: nothing on one side of the cut, no scale to cut, or y not positive.

    Example:
      >>> import numpy as np
      >>> from scaling_jax import fitting
      >>> N, D = (v.ravel() for v in np.meshgrid(np.logspace(7, 9, 4), np.logspace(9, 11, 4)))
      >>> loss = 1.7 + 480 / N**0.35 + 2100 / D**0.37
      >>> below = fitting.holdout("chinchilla", {"N": N, "D": D}, loss, cut=1e19)
      >>> bool(below.rmsle < 1e-4)
      True
    """
    y, cut = column_y(data, y), check_positive(cut, "cut", "1e20")
    scale = scale_of(law, data) if C is None else scale_column(data, C, y)
    train = scale < cut
    if train.all() or not train.any():
        side = "below" if train.all() else "above"
        raise FitError(
            f"all {y.size} points are {side} cut={cut:g} (they run from {scale.min():.3g} to {scale.max():.3g}): "
            "there is nothing to " + ("judge" if train.all() else "fit")
        )
    if options.get("weights") is not None:
        weights = resolve_column(data, options["weights"], "weights")
        options["weights"] = as_column(weights, "weights", y.size, "y")[train]
    if options.get("clusters") is not None:
        options["clusters"] = label_column(data, options["clusters"], y.size)[train]
    fitted = fit(law, rows(data, train), y[train], **options)
    with np.errstate(invalid="ignore", divide="ignore"):
        errors = np.log(fitted.predict(rows(data, ~train))) - np.log(y[~train])
    if not np.isfinite(errors).all():
        raise FitError(
            "errors are judged in ln y, and an observed or predicted value above the cut is not positive: "
            f"smallest y {y[~train].min():g}"
        )
    return Holdout(fit=fitted, cut=float(cut), train=train, test=~train, errors=errors)


@dataclasses.dataclass(frozen=True, repr=False)
class Extrapolation:
    """Distance of predictions from the data of a fit. Made by `extrapolation`.

    Attributes:
      factors: input (and C = 6 N D where the law has N and D) -> how many times beyond the nearest end of the data's
        range, 1 inside it; arrays shaped like the query, at least (1,).
      leverage: likewise, variance of the prediction over the largest that any fitted point has: above 1 the data do
        not determine the law there, whatever the factors are. None on a loaded fit, which has no points.
    """

    factors: dict[str, np.ndarray]
    leverage: np.ndarray | None

    @property
    def decades(self) -> np.ndarray:
        """log10 of the largest factor."""
        return np.max([np.log10(f) for f in self.factors.values()], axis=0)

    def __repr__(self) -> str:
        worst = {k: float(np.max(v)) for k, v in self.factors.items()}
        beyond = ", ".join(f"{k} {v:.3g}x" for k, v in worst.items() if v > 1)
        text = f"beyond the data: {beyond or 'nothing'}"
        if self.leverage is None:
            return text
        return f"{text}; variance of the prediction {float(np.max(self.leverage)):.3g}x the largest among fitted points"


def extrapolation(fit: Fit, query: Mapping) -> Extrapolation:
    """Measures how far `query` is beyond the data of `fit`.

    Args:
      fit: a `Fit`.
      query: columns of the law's inputs, as for `fit.predict`.

    Example:
      >>> import numpy as np
      >>> from scaling_jax import fitting
      >>> N, D = (v.ravel() for v in np.meshgrid(np.logspace(7, 9, 4), np.logspace(9, 11, 4)))
      >>> loss = 1.7 + 480 / N**0.35 + 2100 / D**0.37
      >>> fit = fitting.fit("chinchilla", {"N": N, "D": D}, loss)
      >>> fitting.extrapolation(fit, {"N": 1e10, "D": 1e11}).factors["N"].round(3)
      array([10.])
    """
    if not fit.ranges:
        fit.observed("extrapolation")
    query = {k: np.atleast_1d(v) for k, v in points_of(fit.law, query).items()}
    query = dict(zip(query, np.broadcast_arrays(*query.values())))
    compute = fit.law.compute(query)
    asked = query if compute is None else {**query, "C": compute}
    factors = {}
    for name, values in asked.items():
        low, high = fit.ranges[name]
        with np.errstate(divide="ignore", invalid="ignore"):
            factors[name] = np.maximum(1.0, np.maximum(values / high, low / values))
    return Extrapolation(factors=factors, leverage=None if fit.data is None else _relative_variance(fit, query))


def _relative_variance(fit: Fit, query: dict[str, np.ndarray]) -> np.ndarray:
    """Variance of predictions (shaped like the query) over the largest among fitted points, to first order."""
    shape = next(iter(query.values())).shape
    flat = {k: v.ravel() for k, v in query.items()}
    linear, ones = fit.linearized, np.ones(int(np.prod(shape)))
    there = linear.problem.with_data(flat, ones, ones)
    jacobian = there.residuals_and_jacobian(linear.z[None])[1][0].T
    covariance = linear.covariance()
    variance = np.einsum("ij,jk,ik->i", jacobian, covariance, jacobian)
    fitted = linear.jacobian / np.sqrt(np.where(linear.weights > 0, linear.weights, 1.0))[:, None]
    largest = np.max(np.einsum("ij,jk,ik->i", fitted, covariance, fitted))
    return (variance / max(largest, 1e-300)).reshape(shape)


def rows(data: Mapping, index: Any) -> dict[str, np.ndarray]:
    """The chosen rows of every column."""
    return {k: np.asarray(data[k])[index] for k in names_of(data) or ()}


def scale_of(law: str | Law, data: Mapping) -> np.ndarray:
    """(n,) scale of each run: 6 N D where the law has them, else its single input.

    Raises:
      FitError: the law has several inputs and none of these.
    """
    law = find_law(law)
    columns = inputs_of(law, data)
    compute = law.compute(columns)
    if compute is not None:
        return np.asarray(compute, np.float64)
    if len(law.inputs) == 1:
        return columns[law.inputs[0]]
    raise FitError(f"{law.name} has inputs {', '.join(law.inputs)} and no C = 6 N D to cut by: pass C=")
