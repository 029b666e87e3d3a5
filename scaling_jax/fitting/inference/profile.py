"""Profile intervals: a parameter is fixed along a grid, the others refitted, until the objective is too high."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from scaling_jax.fitting.errors import LawError
from scaling_jax.fitting.inference.covariance import Covariance, gradient_by_z, t_quantile
from scaling_jax.fitting.solver._levenberg_marquardt import levenberg_marquardt
from scaling_jax.fitting.solver._problem import Problem

GRID = 20  # values on each side, then half as many again where the objective crosses the threshold
NEAR = 8  # of them are tried first: the rest only where the objective does not rise far above the threshold by then
FAR_ABOVE = 6.0  # times the threshold's rise: about exp(-8) of the height at a level of 90%
FAR = 40.0  # how far from ordinary numbers, in e-folds of a positive parameter, before its side is called open


@dataclass(frozen=True, repr=False)
class Profile:
    """A profile interval; unpacks to (lower, upper).

    Attributes:
      name: the parameter.
      value: its optimum.
      lower: lower end of the interval at `level`; infinite, zero or a bound of the law where the objective never
        rises enough, which means that the data do not identify that side.
      upper: upper end, in the same way.
      level: confidence level.
      grid: (m,) values tried, in order.
      objective: (m,) the objective at each, with the other parameters refitted.
      threshold: the objective at the ends of the interval.
    """

    name: str
    value: float
    lower: float
    upper: float
    level: float
    grid: np.ndarray
    objective: np.ndarray
    threshold: float

    def __iter__(self) -> Iterator[float]:
        return iter((self.lower, self.upper))

    def __getitem__(self, i: int) -> float:
        return (self.lower, self.upper)[i]

    def __len__(self) -> int:
        return 2

    def __repr__(self) -> str:
        return (
            f"{self.name} = {self.value:.6g}, profile interval [{self.lower:.6g}, {self.upper:.6g}] ({self.level:.0%})"
        )


def profile(problem: Problem, z: np.ndarray, covariance: Covariance, name: str, level: float) -> Profile:
    """`Profile` of one free parameter of a fit at its optimum z."""
    if name not in problem.free:
        known = f"it has {', '.join(problem.free)} free" + (f"; {name} is fixed" if name in problem.fixed else "")
        if name in problem.law.exponents:
            known = f"it is derived from them; {known}; fit.interval(level) and the bootstrap give its interval"
        raise LawError(f"{problem.law.name!r} cannot profile {name!r}: {known}.")
    params = problem.params(z)
    best = float(problem.value(z[None])[0])
    log = params[name] > 0 and problem.law.bounds[name][0] >= 0
    search = (_Alone if problem.p == 1 else _Refit)(problem, z, covariance, params, name, log)
    # The objective is not a likelihood: its rise is scaled so that its parabola gives the sandwich's interval.
    scale = search.scale * problem.weights[problem.weights > 0].mean()
    threshold = best + 0.5 * scale * t_quantile(level, covariance.dof) ** 2 if covariance.dof else np.inf
    sides = [_side(search, params[name], best, threshold, sign, log) for sign in (-1, 1)]
    values = np.concatenate([sides[0][1][::-1], [params[name]], sides[1][1]])
    objective = np.concatenate([sides[0][2][::-1], [best], sides[1][2]])
    lower, upper = sides[0][0], sides[1][0]
    return Profile(name, params[name], lower, upper, level, values, objective, threshold)


class _Alone:
    """The objective along the only free parameter, and how it moves there to first order."""

    def __init__(
        self, problem: Problem, z: np.ndarray, covariance: Covariance, params: Mapping[str, float], name: str, log: bool
    ) -> None:
        self.problem, self.name, self.log, self.value = problem, name, log, params[name]
        self.bounds = problem.law.bounds[name]

        def scaled(params: Mapping[str, Any]) -> np.ndarray:
            return np.log(params[name]) if log else params[name]

        gradient = np.nan_to_num(gradient_by_z(problem, z, scaled))
        towards = covariance.matrix @ gradient
        variance, plain = float(gradient @ towards), float(gradient @ covariance.inverse @ gradient)
        self.deviation = np.sqrt(variance) if variance > 0 else None
        self.scale = variance / plain if plain > 0 else covariance.scale
        self.along = towards / variance if variance > 0 else np.zeros(problem.p)

    def __call__(self, values: np.ndarray) -> np.ndarray:
        z = np.stack([self.problem.unconstrained({**self.problem.fixed, self.name: v}) for v in values])
        return self.problem.value(z)


class _Refit(_Alone):
    """The objective along one parameter, minimized over the others."""

    def __init__(
        self, problem: Problem, z: np.ndarray, covariance: Covariance, params: Mapping[str, float], name: str, log: bool
    ) -> None:
        super().__init__(problem, z, covariance, params, name, log)
        p = problem
        self.held = Problem.of(p.law, p.inputs, p.y, p.weights, p.objective, {**p.fixed, name: self.value})
        self.others, self.z = np.array([k != name for k in p.free]), z

    def __call__(self, values: np.ndarray) -> np.ndarray:
        shift = np.log(values / self.value) if self.log else values - self.value
        held = self.held.with_data(fixed={self.name: values[:, None]})
        starts = [self.z + np.clip(shift, -50, 50)[:, None] * self.along, np.repeat(self.z[None], len(values), axis=0)]
        ends = [levenberg_marquardt(held, s[:, self.others]) for s in starts]
        best = np.where((ends[0].value <= ends[1].value)[:, None], ends[0].z, ends[1].z)
        objective = np.minimum(ends[0].value, ends[1].value)
        # A neighbor's end is often the best start of all.
        again = levenberg_marquardt(held, best[np.maximum(np.arange(len(values)) - 1, 0)])
        return np.minimum(objective, again.value)


def _side(
    search: _Alone, value: float, best: float, threshold: float, sign: int, log: bool
) -> tuple[float, np.ndarray, np.ndarray]:
    """(end, values tried, objectives) on one side of the optimum."""
    low, high = search.bounds
    cap = 2.0 if log else 2.0 * abs(value) + 1e-3
    base = min(search.deviation or 0.05 * cap, cap)
    # An optimum at infinity is far from everything: the grid must reach back to ordinary values.
    reach = FAR + abs(np.log(value)) if log else 1e3 * max(abs(value), base)

    def at(distance: Any) -> np.ndarray:
        return np.clip(value * np.exp(sign * distance) if log else value + sign * distance, low, high)

    distance = np.geomspace(0.25 * base, reach, GRID)
    objective = search(at(distance[:NEAR]))
    if objective[-1] - best > FAR_ABOVE * (threshold - best):
        distance = distance[:NEAR]
    else:
        objective = np.concatenate([objective, search(at(distance[NEAR:]))])
    if not np.any(objective > threshold):
        return (high if sign > 0 else low), at(distance), objective
    for _ in range(3):
        k = int(np.argmax(objective > threshold))
        near, under = (distance[k - 1], objective[k - 1]) if k else (0.0, best)
        if distance[k] - near <= 0.05 * distance[k]:
            break
        inner = np.linspace(near, distance[k], GRID // 2 + 2)[1:-1]
        order = np.argsort(np.concatenate([distance, inner]))
        objective = np.concatenate([objective, search(at(inner))])[order]
        distance = np.concatenate([distance, inner])[order]
    k = int(np.argmax(objective > threshold))
    near, under = (distance[k - 1], objective[k - 1]) if k else (0.0, best)
    share = (threshold - under) / (objective[k] - under)
    return float(at(near + share * (distance[k] - near))), at(distance), objective
