"""One fit as the solver sees it: unit-free coordinates z, residuals and their exact derivatives, in batches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from scaling_jax.fitting.errors import LawError
from scaling_jax.fitting.laws.base import INF, Law, checked_fixed
from scaling_jax.fitting.objectives import Huber, Objective
from scaling_jax.fitting.solver._program import columns, constrained, first_order, program, stacked, without_vanished

Array = np.ndarray
MANY_REPEATS = 2.0  # rows per place from which sorting them pays


@dataclass(frozen=True, eq=False)
class Coordinates:
    """The solver's coordinates of a law's free parameters: unconstrained z (p,) within a box, natural units outside.

    Attributes:
      law: the `Law`.
      free: names of the fitted parameters, in the law's order.
      fixed: natural-unit values of the others; in a batch (b, 1) arrays.
      center: mean logarithms of the inputs and of y, around which coordinates are laid.
      lower: (p,) lower bounds of z.
      upper: (p,) upper bounds of z.
    """

    law: Law
    free: tuple[str, ...]
    fixed: dict[str, Any]
    center: dict[str, float]
    lower: Array
    upper: Array

    @property
    def p(self) -> int:
        """Number of free parameters."""
        return len(self.free)

    def constrained(self, z: Array) -> dict[str, Array]:
        """Natural-unit parameters of z (..., p), a dict of arrays z.shape[:-1], fixed ones included."""
        z = np.asarray(z, np.float64)
        by_name = {k: z[..., i] for i, k in enumerate(self.free)}
        with np.errstate(all="ignore"):
            params = constrained(self.law, by_name, self.fixed, self.center, np.exp)
        return {k: np.broadcast_to(np.asarray(params[k], np.float64), z.shape[:-1]) for k in self.law.params}

    def params(self, z: Array) -> dict[str, float]:
        """Natural-unit parameters of one z (p,), a dict of floats."""
        return {k: float(v) for k, v in self.constrained(z).items()}

    def unconstrained(self, params: Mapping[str, float]) -> Array:
        """z (p,) of a dict of natural-unit parameters, clipped to the bounds."""
        z = np.zeros(self.p)
        p = {k: np.float64(v) for k, v in params.items()}
        with np.errstate(all="ignore"):
            for i, k in enumerate(self.free):
                c = self.law.coordinates[k]
                value = p[k] - (c.shift(p, self.center) if c.shift else 0.0)
                value = value / (c.unit(p, self.center) if c.unit else 1.0)
                z[i] = np.log(value) if c.kind == "log" else value
        return np.clip(np.nan_to_num(z, posinf=INF, neginf=-INF), self.lower, self.upper)


@dataclass(frozen=True, eq=False)
class Problem(Coordinates):
    """Residuals of a law on data as a function of z. Made by `Problem.of`.

    Attributes beside those of `Coordinates`:
      objective: what is minimized.
      inputs: {name: (n,)} float64.
      y: (n,).
      target: T(y), (n,); in a batch (b, n).
      weights: (n,); in a batch (b, n).
      spans: {input: (lo, hi)} of its logarithms around their mean, where a coordinate is laid over them.
      starts: (u,) first rows of the places, where rows of equal inputs are side by side: see `by_place`.
    """

    objective: Objective
    inputs: dict[str, Array]
    y: Array
    target: Array
    weights: Array
    spans: dict[str, Array]
    starts: Array | None = None

    @classmethod
    def of(
        cls,
        law: Law,
        inputs: dict[str, Array],
        y: Array,
        weights: Array,
        objective: Objective,
        fixed: Mapping[str, float] | None = None,
        center: dict[str, float] | None = None,
    ) -> Problem:
        """The problem of a law on data, with parameters `fixed` at natural-unit values.

        Raises:
          LawError: a fixed parameter that the law does not have or outside its bounds, or nothing left to fit.
        """
        held = checked_fixed(law, fixed or {})
        free = tuple(k for k in law.params if k not in held)
        if not free:
            raise LawError(f"fixed={held!r} leaves no parameter of {law.name!r} to fit; leave one out.")
        center = _center(law, inputs, y) if center is None else center
        spanned = [law.coordinates[k].spans for k in free]
        spans = {
            k: np.log(inputs[k][[np.argmin(inputs[k]), np.argmax(inputs[k])]]) - center[k]
            for k in dict.fromkeys(spanned)
            if k is not None
        }
        lower, upper = np.array([_box(law, k, spans) for k in free]).T
        return cls(
            law=law, free=free, fixed=held, center=center, lower=lower, upper=upper, objective=objective, inputs=inputs,
            y=y, target=objective.transform(y), weights=weights, spans=spans,
        )  # fmt: skip

    @property
    def n(self) -> int:
        """Number of rows."""
        return len(self.y)

    @property
    def linear(self) -> Array:
        """(p,) which parameters the law is affine in."""
        return np.array([self.law.coordinates[k].kind == "linear" for k in self.free])

    def with_data(
        self,
        inputs: dict[str, Array] | None = None,
        y: Array | None = None,
        weights: Array | None = None,
        target: Array | None = None,
        fixed: Mapping[str, Any] | None = None,
    ) -> Problem:
        """The same problem, in the same coordinates, on other rows, weights, targets or values of fixed parameters.

        Weights (b, n), targets T(y) (b, n) and fixed values (b, 1) give every row of z its own: see `elements`.
        """
        if target is None:
            target = self.target if y is None else self.objective.transform(y)
        return replace(
            self,
            inputs=self.inputs if inputs is None else inputs,
            starts=self.starts if inputs is None else None,
            y=self.y if y is None else y,
            target=target,
            weights=self.weights if weights is None else weights,
            fixed={**self.fixed, **(fixed or {})},
        )

    def elements(self, index: Any) -> Problem:
        """The problem for some rows of z, where it differs by row."""
        if not any(np.ndim(v) == 2 for v in (self.weights, self.target, *self.fixed.values())):
            return self
        weights, target = (v[index] if v.ndim == 2 else v for v in (self.weights, self.target))
        fixed = {k: v[index] if np.ndim(v) == 2 else v for k, v in self.fixed.items()}
        return self.with_data(weights=weights, target=target, fixed=fixed)

    def by_place(self) -> Problem:
        """The same rows, sorted so that the law is evaluated once for all rows of equal inputs, where these are many.

        Seeds and rates repeat N and D: of thousands of runs a law sees some hundred places.
        """
        columns = np.stack([self.inputs[k] for k in self.law.inputs])
        order = np.lexsort(columns)
        starts = np.flatnonzero(np.any(np.diff(columns[:, order], axis=1, prepend=np.nan) != 0, axis=0))
        if len(starts) > self.n / MANY_REPEATS:
            return self
        inputs = {k: v[order] for k, v in self.inputs.items()}
        target, weights = self.target[..., order], self.weights[..., order]
        return replace(self, inputs=inputs, y=self.y[order], target=target, weights=weights, starts=starts)

    def summed(self, values: Array) -> Array:
        """(b, u) sums over the rows of each place of (b, n) values."""
        return values if self.starts is None else np.add.reduceat(values, self.starts, axis=1)

    def spread(self, values: Array) -> Array:
        """(b, n) of (b, u): to the rows of each place."""
        if self.starts is None:
            return values
        place = np.zeros(self.n, int)
        place[self.starts[1:]] = 1
        return np.take(values, np.cumsum(place), axis=1)

    def within(self, ranges: Mapping[str, tuple[float, float]]) -> Problem:
        """The same problem with narrower natural bounds {parameter: (lo, hi)}."""
        lower, upper = self.lower.copy(), self.upper.copy()
        for k, pair in ranges.items():
            if k in self.free:
                i = self.free.index(k)
                with np.errstate(divide="ignore"):
                    lo, hi = np.log(pair) if self.law.coordinates[k].kind == "log" else pair
                lower[i], upper[i] = max(lo, self.lower[i]), min(hi, self.upper[i])
        return replace(self, lower=lower, upper=upper)

    def pinned(self, i: int, value: float) -> Problem:
        """The same problem with coordinate i held at a value of z."""
        lower, upper = self.lower.copy(), self.upper.copy()
        lower[i] = upper[i] = value
        return replace(self, lower=lower, upper=upper)

    def smoothed(self, delta: float) -> Problem:
        """The same problem under a Huber cost that is quadratic within delta."""
        old = self.objective
        huber = Huber(delta, log=old.log, overestimate_penalty=old.overestimate_penalty, shift=old.shift)
        return replace(self, objective=huber)

    def recentered(self, z: Array) -> tuple[Problem, Array]:
        """The same problem around other centers of the inputs, and z (p,) in it: where its jacobian is least collinear.

        A steep term matters at one end of its input: around the mean, its size and its exponent are one direction.
        """
        best, own = (self, z), self._collinearity(z)
        for k in self.law.inputs:
            values = self.inputs[k]
            for value in (values.min(), values.max()):
                problem, _ = best
                if value <= 0:
                    continue
                center = {**problem.center, k: float(np.log(value))}
                other = Problem.of(self.law, self.inputs, self.y, self.weights, self.objective, self.fixed, center)
                there = other.unconstrained(self.params(z))
                collinearity = other._collinearity(there)
                if collinearity < own:
                    best, own = (other, there), collinearity
        return best

    def _collinearity(self, z: Array) -> float:
        jacobian = self.residuals_and_jacobian(z[None])[1][0]
        size = np.linalg.norm(jacobian, axis=1, keepdims=True)
        seen = jacobian[size[:, 0] > 0] / size[size > 0][:, None]
        return float(np.linalg.cond(seen)) if np.isfinite(seen).all() and len(seen) else INF

    def rows(self, index: Array) -> Problem:
        """The problem on some of its rows."""
        return self.with_data({k: v[index] for k, v in self.inputs.items()}, self.y[index], self.weights[index])

    def evaluate(self, z: Array, order: int = 1) -> Any:
        """The law at rows of z (b, p).

        Returns:
          f (b, n); for order 1 (f, jacobian (b, p, n)); for order 2 (f, jacobian, second), where second is the upper
          triangle of the second derivatives of f as a list of arrays that broadcast to (b, n), row by row. With places
          n is their number.
        """
        inputs = [self.inputs[k] if self.starts is None else self.inputs[k][self.starts] for k in self.law.inputs]
        if order == 1:
            return first_order(self.law, self.free, self.fixed, self.center, inputs, z)
        replay = program(self.law, self.free, tuple(self.fixed), tuple(self.center), order)
        out = replay(*columns(z), *self.fixed.values(), *inputs, *self.center.values())
        f = np.broadcast_to(out[0], (len(z), len(inputs[0])))
        if order == 0:
            return f
        return f, without_vanished(stacked(out[1 : 1 + self.p], f), f), out[1 + self.p :]

    def residuals(self, z: Array) -> Array:
        """T(y) - T(f), (b, n); +inf where the law has no value there (f <= 0 under a logarithm, overflow)."""
        r = self.target - self.spread(self.objective.transform(self.evaluate(z, order=0)))
        return np.where(np.isfinite(r), r, INF)

    def residuals_and_jacobian(self, z: Array) -> tuple[Array, Array]:
        """Residuals (b, n) as `residuals`, and the derivatives of T(f) by z, (b, p, n), zero where those are inf.

        With places the derivatives are theirs, (b, p, u).
        """
        f, jacobian = self.evaluate(z)
        value = self.objective.transform(f)
        if self.objective.log:
            with np.errstate(all="ignore"):
                jacobian *= self.objective.derivative(f)[:, None, :]
        bad = ~np.isfinite(value)
        r = self.target - self.spread(value)
        if bad.any():
            r = np.where(np.isfinite(r), r, INF)
            jacobian[np.broadcast_to(bad[:, None, :], jacobian.shape)] = 0.0
        return r, jacobian

    def value(self, z: Array) -> Array:
        """The objective at each row of z, (b,)."""
        with np.errstate(over="ignore"):  # far from the data
            return self.objective.value(self.residuals(z), self.weights)


def _center(law: Law, inputs: Mapping[str, Array], y: Array) -> dict[str, float]:
    """Mean logarithm of each input (0 where it is not positive) and of the size of y."""
    size = np.abs(y[y != 0])
    center = {k: float(np.mean(np.log(v))) if np.all(v > 0) else 0.0 for k, v in inputs.items() if k in law.inputs}
    return {**center, "y": float(np.mean(np.log(size))) if size.size else 0.0}


def _box(law: Law, k: str, spans: Mapping[str, Array]) -> tuple[float, float]:
    """Bounds of z for one parameter: its natural bounds, carried over, within the coordinate's limits.

    Raises:
      LawError: a finite, non-zero bound of a coordinate with a unit or shift, which cannot be carried over.
    """
    (lo, hi), c = law.bounds[k], law.coordinates[k]
    if c.unit or c.shift:
        # Units are positive and vary with the other parameters, so only zero and infinity stay what they are.
        if any(v not in (0.0, INF, -INF) for v in (lo, hi)):
            raise LawError(
                f"law {law.name!r}: {k} has the bounds [{lo:g}, {hi:g}] and a coordinate with a unit or shift, whose "
                "bounds can only be 0 or infinite; widen them, or give the coordinate neither unit nor shift."
            )
        lo, hi = (-INF, INF) if c.kind == "log" else (lo, hi)
    elif c.kind == "log":
        with np.errstate(divide="ignore"):
            lo, hi = np.log([lo, hi])
    low, high = np.add(c.limits, spans[c.spans]) if c.spans else c.limits
    return float(max(lo, low)), float(min(hi, high))
