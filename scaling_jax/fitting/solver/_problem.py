"""One fit as the solver sees it: unit-free coordinates z, residuals and their exact derivatives, in batches."""

import jax.numpy as jnp
import numpy as np

from scaling_jax.fitting.errors import LawError
from scaling_jax.fitting.laws.base import INF
from scaling_jax.fitting.objectives import Huber
from scaling_jax.fitting.solver._evaluate import with_derivatives


class Problem:
    """Residuals of a law on data as a function of the free parameters, in the solver's coordinates.

    Attributes:
      law, objective: what is fitted and how.
      inputs: dict of (n,) float64 arrays. y, weights: (n,).
      fixed: dict of parameters held at natural-unit values. free: names of the others, in the law's order; p of them.
      lower, upper: (p,) bounds of z.
      spans: {input: (lo, hi)} of its logarithms around their mean, where a coordinate is laid over them.
    """

    def __init__(self, law, inputs, y, weights, objective, fixed=None, centre=None):
        self.law, self.objective, self.inputs, self.y, self.weights = law, objective, inputs, y, weights
        self.fixed = _checked_fixed(law, fixed or {})
        self.free = tuple(k for k in law.params if k not in self.fixed)
        self.n, self.p = len(y), len(self.free)
        if not self.free:
            raise LawError(f"fixed={self.fixed!r} leaves no parameter of {law.name!r} to fit; leave one out.")
        self.centre = _centre(law, inputs, y) if centre is None else centre
        self.target = objective.transform(y)
        self.spans = {
            c.spans: np.log(inputs[c.spans][[np.argmin(inputs[c.spans]), np.argmax(inputs[c.spans])]])
            - self.centre[c.spans]
            for c in (law.coordinates[k] for k in self.free)
            if c.spans
        }
        box = [_box(law, k, self.spans) for k in self.free]
        self.lower, self.upper = (np.array([b[i] for b in box]) for i in (0, 1))
        self.linear = np.array([law.coordinates[k].kind == "linear" for k in self.free])
        self._programs = law.__dict__.setdefault("_programs", {})

    @classmethod
    def without_data(cls, law, fixed, centre, lower, upper):
        """Only the coordinates of a problem, for a fit loaded from a file."""
        problem = object.__new__(cls)
        problem.law, problem.fixed, problem.centre = law, fixed, centre
        problem.free = tuple(k for k in law.params if k not in fixed)
        problem.p = len(problem.free)
        problem.lower, problem.upper = np.array(lower, np.float64), np.array(upper, np.float64)
        return problem

    def with_data(self, inputs=None, y=None, weights=None, target=None, fixed=None):
        """The same problem, in the same coordinates, on other rows, weights, targets or values of what is fixed.

        Weights (b, n), targets T(y) (b, n) and fixed values (b, 1) give every row of z its own: see `lanes`.
        """
        other = object.__new__(Problem)
        other.__dict__.update(self.__dict__)
        other.inputs = self.inputs if inputs is None else inputs
        other.weights = self.weights if weights is None else weights
        other.fixed = {**self.fixed, **(fixed or {})}
        if y is not None:
            other.y, other.n, other.target = y, len(y), self.objective.transform(y)
        if target is not None:
            other.target = target
        return other

    def lanes(self, index):
        """The problem for some rows of z, where it differs by row."""
        by_lane = [v for v in (self.weights, self.target, *self.fixed.values()) if np.ndim(v) == 2]
        if not by_lane:
            return self
        weights, target = (v[index] if v.ndim == 2 else v for v in (self.weights, self.target))
        fixed = {k: v[index] if np.ndim(v) == 2 else v for k, v in self.fixed.items()}
        return self.with_data(weights=weights, target=target, fixed=fixed)

    def within(self, ranges):
        """The same problem with narrower natural bounds {parameter: (lo, hi)}."""
        other = self.with_data()
        other.lower, other.upper = self.lower.copy(), self.upper.copy()
        for k, pair in ranges.items():
            if k in self.free:
                i = self.free.index(k)
                with np.errstate(divide="ignore"):
                    lo, hi = np.log(pair) if self.law.coordinates[k].kind == "log" else pair
                other.lower[i], other.upper[i] = max(lo, self.lower[i]), min(hi, self.upper[i])
        return other

    def pinned(self, i, value):
        """The same problem with coordinate i held at a value of z."""
        other = self.with_data()
        other.lower, other.upper = self.lower.copy(), self.upper.copy()
        other.lower[i] = other.upper[i] = value
        return other

    def smoothed(self, delta):
        """The same problem under a Huber cost that is quadratic within delta."""
        other = self.with_data()
        old = self.objective
        other.objective = Huber(delta, log=old.log, overestimate_penalty=old.overestimate_penalty, shift=old.shift)
        return other

    def recentred(self, z):
        """The same problem around other centres of the inputs, and z (p,) in it: where its slopes are least collinear.

        A steep term lives at one end of its input: around the mean, its size and its exponent are one direction.
        """
        best, own = (self, z), self._collinearity(z)
        for k in self.law.inputs:
            values = self.inputs[k]
            for value in (values.min(), values.max()):
                problem, _ = best
                if value <= 0:
                    continue
                centre = {**problem.centre, k: float(np.log(value))}
                other = Problem(self.law, self.inputs, self.y, self.weights, self.objective, self.fixed, centre)
                there = other.internal(self.params(z))
                collinearity = other._collinearity(there)
                if collinearity < own:
                    best, own = (other, there), collinearity
        return best

    def _collinearity(self, z):
        slopes = self.residuals_and_slopes(z[None])[1][0]
        size = np.linalg.norm(slopes, axis=1, keepdims=True)
        seen = slopes[size[:, 0] > 0] / size[size > 0][:, None]
        return np.linalg.cond(seen) if np.isfinite(seen).all() and len(seen) else np.inf

    def rows(self, index):
        """The problem on some of its rows."""
        return self.with_data({k: v[index] for k, v in self.inputs.items()}, self.y[index], self.weights[index])

    def natural(self, z):
        """Natural-unit parameters, a dict of arrays z.shape[:-1], fixed ones included."""
        z = np.asarray(z, np.float64)
        with np.errstate(all="ignore"):
            params = _natural(
                self.law, {k: z[..., i] for i, k in enumerate(self.free)}, self.fixed, self.centre, np.exp
            )
        return {k: np.broadcast_to(np.asarray(params[k], np.float64), z.shape[:-1]) for k in self.law.params}

    def params(self, z):
        """Natural-unit parameters of one z (p,), a dict of floats."""
        return {k: float(v) for k, v in self.natural(z).items()}

    def internal(self, params):
        """z (p,) of a dict of natural-unit parameters, clipped to the bounds."""
        z = np.zeros(self.p)
        p = {k: np.float64(v) for k, v in params.items()}
        with np.errstate(all="ignore"):
            for i, k in enumerate(self.free):
                c = self.law.coordinates[k]
                value = p[k] - (c.shift(p, self.centre) if c.shift else 0.0)
                value = value / (c.unit(p, self.centre) if c.unit else 1.0)
                z[i] = np.log(value) if c.kind == "log" else value
        return np.clip(np.nan_to_num(z, posinf=INF, neginf=-INF), self.lower, self.upper)

    def _program(self, order):
        key = (self.free, order)
        if key not in self._programs:
            law, groups = self.law, (self.free, tuple(self.fixed), self.law.inputs, tuple(self.centre))

            def function(*args):
                values = iter(args)
                z, held, x, m = ({k: next(values) for k in names} for names in groups)
                return law.function(_natural(law, z, held, m, jnp.exp), x)

            self._programs[key] = with_derivatives(function, self.p, sum(map(len, groups)), order)
        return self._programs[key]

    def evaluate(self, z, order=1):
        """The law and its derivatives by z.

        Args:
          z: (b, p).
          order: 0, 1 or 2.
        Returns:
          f (b, n); for order >= 1 also J (b, p, n), finite wherever f is; for order 2 also the upper triangle of the
          Hessian of f as a list of arrays that broadcast to (b, n), row by row.
        """
        rest = (*self.fixed.values(), *(self.inputs[k] for k in self.law.inputs), *self.centre.values())
        out = self._program(order)(*[z[:, i : i + 1] for i in range(self.p)], *rest)
        f = np.broadcast_to(out[0], (len(z), self.n))
        if order == 0:
            return f
        jacobian = np.empty((len(z), self.p, self.n))
        for i in range(self.p):
            jacobian[:, i] = out[1 + i]
        if not np.isfinite(jacobian.sum()):  # where a term has vanished by underflow its derivatives read 0 * inf
            jacobian[np.isfinite(f)[:, None, :] & ~np.isfinite(jacobian)] = 0.0
        return (f, jacobian) if order == 1 else (f, jacobian, out[1 + self.p :])

    def residuals(self, z):
        """T(y) - T(f), (b, n); +inf where the law has no value there (f <= 0 under a logarithm, overflow)."""
        r = self.target - self.objective.transform(self.evaluate(z, order=0))
        return np.where(np.isfinite(r), r, INF)

    def residuals_and_slopes(self, z):
        """Residuals (b, n) as `residuals`, and the derivatives of T(f) by z, (b, p, n), zero where those are inf."""
        f, slopes = self.evaluate(z)
        r = self.target - self.objective.transform(f)
        if self.objective.log:
            with np.errstate(all="ignore"):
                slopes *= self.objective.slope(f)[:, None, :]
        bad = ~np.isfinite(r)
        if bad.any():
            r = np.where(bad, INF, r)
            slopes[np.broadcast_to(bad[:, None, :], slopes.shape)] = 0.0
        return r, slopes

    def value(self, z):
        """The objective at each row of z, (b,)."""
        with np.errstate(over="ignore"):  # far from the data
            return self.objective.value(self.residuals(z), self.weights)


def _natural(law, z, fixed, centre, exp):
    """Natural-unit parameters of coordinates z (dict): first those with no unit or shift, then in declared order."""
    params = dict(fixed)
    free = [k for k in law.coordinates if k in z]
    simple = [k for k in free if law.coordinates[k].unit is None and law.coordinates[k].shift is None]
    for k in (*simple, *(k for k in free if k not in simple)):
        c = law.coordinates[k]
        value = exp(z[k]) if c.kind == "log" else z[k]
        if c.unit is not None:
            value = value * c.unit(params, centre)
        params[k] = value if c.shift is None else value + c.shift(params, centre)
    return params


def _centre(law, inputs, y):
    """Mean logarithm of each input (0 where it is not positive) and of the size of y."""
    size = np.abs(y[y != 0])
    centre = {k: float(np.mean(np.log(v))) if np.all(v > 0) else 0.0 for k, v in inputs.items() if k in law.inputs}
    return {**centre, "y": float(np.mean(np.log(size))) if size.size else 0.0}


def _box(law, k, spans):
    """Bounds of z for one parameter: its natural bounds, carried over, within the coordinate's limits."""
    (lo, hi), c = law.bounds[k], law.coordinates[k]
    if c.kind == "log":
        with np.errstate(divide="ignore"):
            lo, hi = (-INF, INF) if c.unit or c.shift else np.log([lo, hi])
    elif c.unit or c.shift:
        # Units are positive where a bound is finite, and such bounds are zero (see the laws): they stay zero.
        lo, hi = (v if v in (0.0, INF, -INF) else v * np.nan for v in (lo, hi))
    low, high = np.add(c.limits, spans[c.spans]) if c.spans else c.limits
    return max(lo, low), min(hi, high)


def _checked_fixed(law, fixed):
    checked = {}
    for k, v in fixed.items():
        if k not in law.params:
            raise LawError(f"fixed: {law.name!r} has no parameter {k!r}; it has {', '.join(law.params)}.")
        lo, hi = law.bounds[k]
        try:
            value = float(v)
        except (TypeError, ValueError):
            raise LawError(f"fixed[{k!r}] = {v!r} is not a number.") from None
        if not (np.isfinite(value) and lo <= value <= hi):
            raise LawError(f"fixed[{k!r}] = {v!r} is outside the bounds [{lo:g}, {hi:g}] of {law.name!r}.")
        checked[k] = value
    return {k: checked[k] for k in law.params if k in checked}
