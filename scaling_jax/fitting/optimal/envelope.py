"""Approach 1: the runs that no cheaper run beats, and the power laws through them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from scaling_jax.fitting.data import check_int, check_level
from scaling_jax.fitting.errors import FitError
from scaling_jax.fitting.optimal.power_law import Allocation, power_law
from scaling_jax.fitting.optimal.sweeps import as_columns
from scaling_jax.fitting.rows import mistaken_columns

LAYERS = 40


@dataclasses.dataclass(frozen=True, repr=False)
class Envelope(Allocation):
    """The compute-efficient runs: N* ~ C^a and D* ~ C^b through the lower hull. Made by `envelope`.

    Attributes beside those of `Allocation`:
      index: positions of the optima in the arrays that were passed in.
    """

    index: np.ndarray

    def interval(self, level: float = 0.95) -> dict[str, tuple[float, float]]:
        """Percentiles of the exponents over pairs-bootstrap resamples of the runs; nan without resamples."""
        check_level(level)
        if not self.samples.size:
            return {"a": (np.nan, np.nan), "b": (np.nan, np.nan)}
        low, high = np.quantile(self.samples, [(1 - level) / 2, (1 + level) / 2], axis=0)
        return {k: (float(low[i]), float(high[i])) for i, k in enumerate("ab")}

    def __repr__(self) -> str:
        lines = [
            f"Envelope: {self.optima.size} runs on the lower hull",
            *self._exponent_lines(),
            f"  {'C':>10} {'N':>10} {'D':>10} {'loss':>8}",
        ]
        lines += [f"  {o.C:10.3g} {o.N:10.4g} {o.D:10.4g} {o.loss:8.4f}" for o in self.optima]
        return "\n".join(lines + [f"  ! {warning}" for warning in self.warnings])


def envelope(N: Any, D: Any, C: Any, loss: Any, *, resamples: int = 200, seed: int = 0) -> Envelope:
    """Approach 1 of Hoffmann et al. 2022, on the lower convex hull of (ln C, ln loss).

    The hull, not the pointwise minimum: ln L*(ln C) is convex for every law with an irreducible loss, and a run
    above the hull is beaten by a mixture of its neighbors. The hull ends at the lowest loss.

    Args:
      N: (n,) parameters of each run.
      D: (n,) tokens.
      C: (n,) training FLOPs.
      loss: (n,) loss: final, or of points of training curves.
      resamples: of the pairs bootstrap behind `.interval`.
      seed: of the bootstrap.

    Raises:
      FitError: fewer than two runs on the hull, or values that are not finite and positive.

    Example:
      >>> import numpy as np
      >>> from scaling_jax import fitting
      >>> C = np.repeat([1e18, 1e19, 1e20], 7)
      >>> N = np.sqrt(C / 120) * np.tile(np.logspace(-0.6, 0.6, 7), 3)
      >>> D = C / (6 * N)
      >>> loss = 1.7 + 480 / N**0.35 + 2100 / D**0.37
      >>> round(fitting.envelope(N, D, C, loss).a, 2)
      0.5
    """
    data = as_columns(N=N, D=D, C=C, loss=loss)
    x, y = np.log(data["C"]), np.log(data["loss"])
    order = np.lexsort((y, x))
    index = _lower_hull(x, y, order)
    if index.size < 2 or np.ptp(x[index]) == 0:
        raise FitError(
            f"{index.size} of {x.size} runs are on the lower hull of loss against C and exponents need two: "
            "no more expensive run has a lower loss than the cheapest good one"
        )
    rng = np.random.default_rng(check_int(seed, "seed"))
    samples = []
    within_reach = _within_reach(y, order)
    for _ in range(check_int(resamples, "resamples")):
        drawn = np.zeros(x.size, bool)
        drawn[rng.integers(x.size, size=x.size)] = True
        hull = _lower_hull(x, y, within_reach[drawn[within_reach]])
        if hull.size >= 2:
            samples.append([power_law(data["C"][hull], data[k][hull]).exponent for k in "ND"])
    names = ("C", "N", "D", "loss")
    optima = np.rec.fromarrays([data[k][index] for k in names], dtype=[(k, np.float64) for k in names])
    return Envelope(
        optima=optima,
        index=index,
        N_law=power_law(optima.C, optima.N),
        D_law=power_law(optima.C, optima.D),
        samples=np.array(samples).reshape(-1, 2),
        warnings=list(_warnings(optima, data)),
    )


def _within_reach(y: np.ndarray, order: np.ndarray) -> np.ndarray:
    """What of `order` a resample's hull can touch: `LAYERS` times the points lower than everything to their left.

    A point behind that many layers is on a hull only where one of each is not drawn: with a chance of e^-LAYERS.
    """
    left, found = order, []
    for _ in range(LAYERS):
        if not left.size:
            break
        lowest = _falling(y[left])
        found.append(left[lowest])
        left = left[~lowest]
    chosen = np.zeros(y.size, bool)
    chosen[np.concatenate(found)] = True
    return order[chosen[order]]


def _falling(y: np.ndarray) -> np.ndarray:
    """(n,) which are lower than everything to their left."""
    return np.r_[True, y[1:] < np.minimum.accumulate(y)[:-1]]


def _lower_hull(x: np.ndarray, y: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Indices of the falling part of the lower convex hull of points, from left to right.

    Args:
      x, y: (n,) coordinates.
      order: (m,) the points, by x and then y.
    """
    order = order[_falling(y[order])]  # no other can be on the falling part: few are left for the loop
    hull: list[int] = []
    for i in order:
        while len(hull) >= 2:
            j, k = hull[-2], hull[-1]
            if (x[k] - x[j]) * (y[i] - y[j]) > (y[k] - y[j]) * (x[i] - x[j]):
                break
            hull.pop()
        hull.append(int(i))
    return np.array(hull)


def _warnings(optima: np.recarray, data: Mapping[str, np.ndarray]) -> Iterator[str]:
    if mistaken := mistaken_columns(data, data["C"]):
        yield mistaken
    if optima.size < 5:
        yield f"only {optima.size} runs are on the hull: exponents from so few are a rough guide"
    decades = np.log10(optima.C[-1] / optima.C[0])
    if decades < 1:
        yield f"the hull spans {decades:.1f} decades of C: exponents need at least one, better two"
    if optima.C[-1] < data["C"].max() * 0.999:
        yield (
            f"runs above C = {optima.C[-1]:.3g} do not improve on its loss (the most expensive has "
            f"C = {data['C'].max():.3g}): the hull ends there"
        )
    sizes = np.unique(data["N"])
    for edge, name, more in ((sizes[0], "smallest", "smaller"), (sizes[-1], "largest", "larger")):
        pinned = int(np.count_nonzero(edge == optima.N))
        if pinned > 1:
            yield (
                f"{pinned} of {optima.size} runs on the hull have the {name} size tried ({edge:.3g}): "
                f"the exponent is bent there; add {more} models"
            )
