"""The objective of a fit: a convex cost of each residual, times its weight, summed over the points.

The residual is ln y - ln f for objectives in logarithms and y - f otherwise. The sum is never averaged: a mean
changes where default tolerances stop, which is how a published fit ended away from its minimum (Besiroglu et al.
2024, arXiv:2404.10102).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from scaling_jax.fitting.errors import FitError


@dataclass(frozen=True)
class Objective:
    """A convex cost of residuals r = T(y) - T(f), with T = ln(. + shift) or the identity.

    Attributes:
      log: whether residuals are taken between logarithms.
      overestimate_penalty: factor on the cost of points that the law overestimates (f > y); 1 is symmetric. The name
        and meaning of OLMo-core's model ladders. A rung that is not tuned to its best has too high a loss and never
        too low a one: its loss overestimates the optimum of that size, and should weigh less. Above 1 (OLMo: 10) points
        above the law count that much less than those below, and the law follows the lower edge of the losses.
        For a metric that under-tuning makes too small, such as accuracy, take it below 1.
      shift: added to y and f before the logarithm; 1 gives Caballero's ln(1 + y).
    """

    log: bool = True
    overestimate_penalty: float = 1.0
    shift: float = 0.0

    reduction = "sum"
    delta = np.inf  # where the cost turns from quadratic to linear
    scale = 1.0  # of the cost, relative to r^2 / 2 below delta

    def __post_init__(self) -> None:
        if not 1e-9 <= self.overestimate_penalty <= 1e9:
            raise FitError(
                f"overestimate_penalty={self.overestimate_penalty!r} must be a positive number, 1e-9 to 1e9; 1 is "
                "symmetric."
            )
        if not 0 <= self.shift <= 1e100:
            raise FitError(f"shift={self.shift!r} must be zero or a positive number up to 1e100.")
        if self.shift and not self.log:
            raise FitError(f"shift={self.shift!r} only matters with log=True.")

    def transform(self, value: np.ndarray) -> np.ndarray:
        """T(value): where residuals are taken. NaN where the logarithm does not exist."""
        if not self.log:
            return value
        with np.errstate(all="ignore"):
            return np.log(value + self.shift if self.shift else value)

    def derivative(self, value: np.ndarray) -> np.ndarray:
        """T'(value)."""
        if not self.log:
            return np.ones_like(value)
        with np.errstate(all="ignore"):
            return 1.0 / (value + self.shift)

    def asymmetry(self, residuals: np.ndarray) -> Any:
        """Factor on each point's cost for the side of the law it is on (1 when symmetric)."""
        if self.overestimate_penalty == 1:
            return 1.0
        return np.where(residuals < 0, self.overestimate_penalty, 1.0)

    def cost(self, residuals: np.ndarray) -> np.ndarray:
        """Cost of each residual, same shape."""
        raise NotImplementedError

    def value(self, residuals: np.ndarray, weights: Any = 1.0) -> np.ndarray:
        """The objective: the weighted SUM over the last axis."""
        return np.sum(np.asarray(weights) * self.cost(np.asarray(residuals)), axis=-1)

    def _label(self) -> str:
        """The cost, as printed."""
        raise NotImplementedError

    @property
    def name(self) -> str:
        return type(self).__name__

    def __str__(self) -> str:
        space = f"ln(y + {self.shift:g})" if self.shift else "ln y" if self.log else "y"
        side = "" if self.overestimate_penalty == 1 else f", overestimates x {self.overestimate_penalty:g}"
        return f"{self._label()} on {space}{side}, SUM over points"

    def to_dict(self) -> dict[str, Any]:
        fields = {k: getattr(self, k) for k in self.__dataclass_fields__}
        return {"name": self.name, "reduction": self.reduction, **fields}


@dataclass(frozen=True)
class Huber(Objective):
    """Huber cost: r^2 / 2 up to |r| = delta, delta (|r| - delta / 2) beyond; by default on ln y.

    delta = 1e-3 is what Hoffmann et al. 2022 (arXiv:2203.15556) used for Chinchilla: with residuals of about 1%
    it is close to least absolute deviations, and outliers have little influence. Raises FitError unless delta > 0.

    Example:
      >>> import numpy as np
      >>> from scaling_jax import fitting
      >>> float(fitting.Huber(0.5).value(np.array([0.1, 2.0])).round(6))
      0.88
    """

    delta: float = 1e-3

    def __init__(
        self, delta: float = 1e-3, *, log: bool = True, overestimate_penalty: float = 1.0, shift: float = 0.0
    ) -> None:
        if not (isinstance(delta, (int, float, np.number)) and np.isfinite(delta) and delta > 0):
            raise FitError(f"Huber(delta={delta!r}): delta must be a positive number, e.g. 1e-3.")
        object.__setattr__(self, "delta", float(delta))
        _set(self, log, overestimate_penalty, shift)

    def cost(self, residuals: np.ndarray) -> np.ndarray:
        size = np.abs(residuals)
        inside = np.minimum(size, self.delta)
        return inside * (size - 0.5 * inside) * self.asymmetry(residuals)

    def _label(self) -> str:
        return f"Huber(delta={self.delta:g})"


@dataclass(frozen=True)
class LAD(Objective):
    """Least absolute deviations, |r|; by default on ln y; the objective behind the table of Besiroglu et al. 2024.

    Example:
      >>> import numpy as np
      >>> from scaling_jax import fitting
      >>> float(fitting.LAD().value(np.array([0.1, 2.0])))
      2.1
    """

    delta = 0.0

    def __init__(self, *, log: bool = True, overestimate_penalty: float = 1.0, shift: float = 0.0) -> None:
        _set(self, log, overestimate_penalty, shift)

    def cost(self, residuals: np.ndarray) -> np.ndarray:
        return np.abs(residuals) * self.asymmetry(residuals)

    def _label(self) -> str:
        return "least absolute deviations"


@dataclass(frozen=True)
class LeastSquares(Objective):
    """Least squares, r^2 (no factor 1/2, so the value is the residual sum of squares); by default on y itself.

    Example:
      >>> import numpy as np
      >>> from scaling_jax import fitting
      >>> float(fitting.LeastSquares().value(np.array([0.1, 2.0])).round(6))
      4.01
    """

    scale = 2.0

    def __init__(self, log: bool = False, *, overestimate_penalty: float = 1.0, shift: float = 0.0) -> None:
        _set(self, log, overestimate_penalty, shift)

    def cost(self, residuals: np.ndarray) -> np.ndarray:
        return residuals * residuals * self.asymmetry(residuals)

    def _label(self) -> str:
        return "least squares"


def as_objective(objective: Any) -> Objective:
    """The objective, or the default where it is None. Raises FitError for anything else."""
    if not isinstance(objective, Objective | None):
        raise FitError(f"objective={objective!r}: give Huber(delta), LAD() or LeastSquares(log=False).")
    return Huber(1e-3) if objective is None else objective


def _set(objective: Objective, log: bool, overestimate_penalty: float, shift: float) -> None:
    for name, value in (("overestimate_penalty", overestimate_penalty), ("shift", shift)):
        if not isinstance(value, (int, float, np.number)):
            raise FitError(f"{name}={value!r} must be a number.")
    object.__setattr__(objective, "log", bool(log))
    object.__setattr__(objective, "overestimate_penalty", float(overestimate_penalty))
    object.__setattr__(objective, "shift", float(shift))
    Objective.__post_init__(objective)


def objective_from_dict(record: Mapping[str, Any]) -> Objective:
    """The inverse of `Objective.to_dict`.

    Raises:
      FitError: an objective, or a field of one, that this version does not have.
    """
    kinds = {kind.__name__: kind for kind in (Huber, LAD, LeastSquares)}
    kind = kinds.get(record["name"])
    if kind is None:
        raise FitError(f"it has the objective {record['name']!r}, and there are {', '.join(kinds)}")
    arguments = {k: v for k, v in record.items() if k not in ("name", "reduction")}
    unknown = [k for k in arguments if k not in kind.__dataclass_fields__]
    if unknown:
        raise FitError(
            f"its objective has {', '.join(map(repr, unknown))}, which this scaling_jax does not know: another version "
            "saved it"
        )
    return kind(**arguments)
