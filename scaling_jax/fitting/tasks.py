"""Accuracy of a task: the chain scale -> loss -> accuracy with joint intervals, and the noise of scores.

The chain is Bhagia et al. 2024 (arXiv:2412.04403). The direct law without the loss in between is
`fit("downstream", ...)`. Noise beside signal is Heineman et al. 2025 (arXiv:2508.13144).
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from scaling_jax.fitting.data import (
    as_column,
    check_int,
    check_level,
    column_y,
    label_column,
    points_of,
    resolve_column,
)
from scaling_jax.fitting.errors import DataError
from scaling_jax.fitting.fit import Fit, fit
from scaling_jax.fitting.laws.registry import find_law
from scaling_jax.fitting.objectives import LeastSquares, Objective


@dataclasses.dataclass(frozen=True, eq=False)
class Chained:
    """A prediction of a `Chain`: `value`, `low`, `high`, and the `loss` in between; floats, or arrays."""

    value: Any
    low: Any
    high: Any
    loss: Any


@dataclasses.dataclass(frozen=True, eq=False)
class Chain:
    """Two fits, one after the other; made by `chain`.

    Attributes:
      first: `Fit` of the loss in its inputs (N, D, ...).
      second: `Fit` of the accuracy in the loss.
      residuals: (n,) accuracy minus what the chain gives at each run's N and D.
    """

    first: Fit
    second: Fit
    residuals: np.ndarray = dataclasses.field(repr=False)
    _samples: tuple[dict, dict] = dataclasses.field(repr=False)

    def predict(self, inputs: Any, level: float = 0.9, new_run: bool = False) -> Chained:
        """The accuracy at new inputs, with an interval that both steps share.

        Args:
          inputs: as `Fit.predict` of the first step takes them.
          level: of the interval.
          new_run: whether the interval is for the accuracy of one run, with its scatter, instead of for the mean.

        Returns:
          `Chained`: value, low, high, loss.
        """
        check_level(level)
        loss = np.asarray(self.first.predict(inputs))
        value = np.asarray(self.second.predict({"loss": loss}))
        columns = points_of(self.first.law, inputs)
        flat = {k: np.broadcast_to(v, loss.shape).ravel()[None] for k, v in columns.items()}
        first, second = ({k: v[:, None] for k, v in part.items()} for part in self._samples)
        with np.errstate(all="ignore"):
            drawn = self.second.law(second, {"loss": self.first.law(first, flat)})
        if new_run:
            draw = np.random.default_rng(0).integers(len(self.residuals), size=drawn.shape)
            drawn = drawn + self.residuals[draw]
        tail = (1 - level) / 2
        low, high = np.nanquantile(drawn, [tail, 1 - tail], axis=0)
        if self.second.y.min() >= 0 and self.second.y.max() <= 1:
            low, high = np.clip((low, high), 0.0, 1.0)  # of an accuracy, whichever the law's own limits are
        return Chained(*(v.reshape(loss.shape) if loss.ndim else float(v.item()) for v in (value, low, high, loss)))


def chain(
    data: Any,
    loss: ArrayLike | str,
    accuracy: ArrayLike | str,
    *,
    laws: tuple[str, str] = ("chinchilla", "sigmoid"),
    objectives: tuple[Objective | None, Objective | None] = (None, None),
    fixed: Mapping[str, float] | None = None,
    clusters: ArrayLike | str | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> Chain:
    """Fits loss = f(N, D) and accuracy = g(loss) to the same runs, and resamples both together.

    Args:
      data: the inputs of the first law.
      loss: (n,) loss of each run, or the name of a column.
      accuracy: (n,) accuracy, or the name of a column; NaN for runs that were not evaluated.
      laws: of the two steps; the second takes "loss".
      objectives: of the two steps; by default Huber(1e-3) on ln loss, and least squares on the accuracy.
      fixed: parameters of the second step that are known, e.g. {"floor": 0.25} for the chance level.
      clusters: labels of runs that are not independent, or the name of a column.
      resamples: of runs (or clusters) for the intervals: each gives one pair of fits.
      seed: of the fits and the resampling.

    Returns:
      A `Chain`.

    Raises:
      FitError: what `fit` refuses, or a second law that does not take the loss.

    Example:
      >>> import numpy as np
      >>> from scaling_jax import fitting
      >>> N, D = (v.ravel() for v in np.meshgrid(np.logspace(7, 9, 4), np.logspace(9, 11, 4)))
      >>> loss = 1.7 + 480 / N**0.35 + 2100 / D**0.37
      >>> accuracy = 0.25 + 0.7 / (1 + np.exp(4 * (loss - 2.6)))
      >>> chain = fitting.chain({"N": N, "D": D}, loss, accuracy, resamples=20)
      >>> round(chain.predict({"N": 1e9, "D": 1e11}).value, 3)
      0.825
    """
    if find_law(laws[1]).inputs != ("loss",):
        raise DataError(f"laws[1]={laws[1]!r} must be a law of the loss, e.g. 'sigmoid' or 'exponential'.")
    check_int(resamples, "resamples", 2)
    loss = column_y(data, loss)
    accuracy = as_column(resolve_column(data, accuracy, "accuracy"), "accuracy", len(loss), "loss")
    measured = np.isfinite(accuracy)
    if not measured.any():
        raise DataError("accuracy is NaN for every run; give at least as many values as the second law has parameters.")
    labels = None if clusters is None else label_column(data, clusters, len(loss))
    first = fit(laws[0], data, loss, objectives[0], clusters=labels, seed=seed)
    # Runs without an accuracy are kept with weight zero, so that a resample is the same runs in both steps.
    second = fit(
        laws[1], {"loss": loss}, np.where(measured, accuracy, np.mean(accuracy[measured])),
        LeastSquares() if objectives[1] is None else objectives[1],
        weights=measured.astype(float), fixed=fixed, clusters=labels, seed=seed,
    )  # fmt: skip
    samples = (_samples(first, resamples, seed), _samples(second, resamples, seed))
    residuals = (accuracy - second.predict({"loss": first.predict(data)}))[measured]
    return Chain(first, second, residuals, samples)


def _samples(step: Fit, n: int, seed: int) -> dict[str, np.ndarray]:
    """{parameter: (n,)} bootstrap samples of a step, fixed parameters repeated."""
    boot = step.bootstrap(n, seed=seed)
    names = [k for k in step.law.params if k not in step.fixed]
    drawn = {k: boot.samples[:, i] for i, k in enumerate(names)}
    return drawn | {k: np.full(n, v) for k, v in step.fixed.items()}


@dataclasses.dataclass(frozen=True)
class NoiseCeiling:
    """How far scores of a task can be trusted.

    Attributes:
      noise: standard deviation of a model's score between its last checkpoints, about their trend.
      signal: standard deviation of models' mean scores, without what noise adds to it.
      ratio: signal over noise; below about 1 the task barely ranks these models.
      explainable: the largest share of the variance of single scores that any law can explain.
      smallest_difference: between two single scores that noise alone exceeds once in 1 / (1 - level) times.
    """

    noise: float
    signal: float
    ratio: float
    explainable: float
    smallest_difference: float


def noise_ceiling(scores: ArrayLike, models: ArrayLike, *, last: int = 5, level: float = 0.9) -> NoiseCeiling:
    """The noise of a task's scores beside the differences between models: smaller differences mean nothing.

    Args:
      scores: (n,) accuracy (or any score) of checkpoints.
      models: (n,) which model each belongs to; the checkpoints of one in order of training.
      last: how many of each model's last checkpoints count.
      level: of `smallest_difference`.

    Returns:
      `NoiseCeiling`.

    Raises:
      FitError: fewer than two models with three checkpoints.

    Example:
      >>> from scaling_jax import fitting
      >>> fitting.noise_ceiling([.50, .52, .51, .60, .63, .61], ["a"] * 3 + ["b"] * 3).ratio > 3
      True
    """
    scores = as_column(scores, "scores")
    labels = label_column({}, models, len(scores), "models")
    check_int(last, "last", 3)
    check_level(level)
    groups = [scores[labels == i][-last:] for i in range(labels.max(initial=-1) + 1)]
    groups = [g for g in groups if len(g) >= 3]
    if len(groups) < 2:
        raise DataError(f"{len(groups)} models have three checkpoints or more; two are the least.")
    from scipy.special import stdtrit  # imported when needed, as everywhere in this package: it takes long

    square, left = 0.0, 0
    for g in groups:
        steps = np.arange(len(g))
        line = np.polyval(np.polyfit(steps, g, 1), steps)
        square, left = square + float(np.sum((g - line) ** 2)), left + len(g) - 2
    noise = float(np.sqrt(square / left))
    means = np.array([g.mean() for g in groups])
    between = float(np.var(means, ddof=1)) - noise**2 * float(np.mean([1 / len(g) for g in groups]))
    signal = float(np.sqrt(max(between, 0.0)))
    total = signal**2 + noise**2
    return NoiseCeiling(
        noise=noise, signal=signal, ratio=signal / noise if noise else np.inf,
        explainable=signal**2 / total if total else 0.0,
        smallest_difference=float(np.sqrt(2) * noise * stdtrit(left, (1 + level) / 2)),
    )  # fmt: skip
