"""A law's value at new inputs, with an interval from any source of intervals."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from scaling_jax.fitting.data import check_level, points_of
from scaling_jax.fitting.solution import IntervalOf, Solution

BLOCK = 2**22  # numbers in memory at once when an interval is taken over many points


class Prediction(NamedTuple):
    """A prediction: `value`, and its `interval`, an array (2, ...) of lower and upper ends, of the law's mean only."""

    value: np.ndarray
    interval: np.ndarray

    def __repr__(self) -> str:
        with np.printoptions(precision=6):
            return (
                f"Prediction(value={self.value!r}, interval={self.interval!r})\n"
                "the interval is of the law's mean only, if the law is right; for a run use fitting.forecast"
            )


def predict(solution: Solution, inputs: Any) -> np.ndarray:
    """The law at new inputs, float64, of the shape that the inputs broadcast to."""
    return solution.law(solution.params, points_of(solution.law, inputs))


def predict_interval(
    solution: Solution, inputs: Any, level: float, interval_of: IntervalOf, samples: int
) -> Prediction:
    """The law at new inputs with its interval.

    Args:
      solution: a `Fit`.
      inputs: as for `Fit.predict`.
      level: e.g. 0.9.
      interval_of: where intervals come from.
      samples: parameter vectors that it evaluates at once, by which points are taken in blocks.
    """
    check_level(level)
    law = solution.law
    columns = points_of(law, inputs)
    value = law(solution.params, columns)
    flat = {k: np.broadcast_to(v, value.shape).ravel() for k, v in columns.items()}
    block = max(1, BLOCK // samples)
    ends = np.empty((2, value.size))
    log = solution.objective is not None and solution.objective.log
    for i in range(0, value.size, block):
        part = {k: v[i : i + block] for k, v in flat.items()}
        ends[:, i : i + block] = interval_of(
            lambda p, part=part: law({k: v[:, None] for k, v in p.items()}, part), level, log
        )
    return Prediction(value, ends.reshape(2, *value.shape))
