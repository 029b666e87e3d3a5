"""`Law`: a function of parameters and inputs, with what the solver needs to know; and `law`, to make your own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import jax.numpy as jnp
import numpy as np

from scaling_jax.fitting.errors import LawError
from scaling_jax.fitting.laws._evaluate import mixes_points, with_derivatives

INF = np.inf


@dataclass(frozen=True)
class Coordinate:
    """How the solver moves along one parameter, so that units and scales make no difference to it.

    The natural value is shift + unit * z ("linear", "plain") or shift + unit * exp(z) ("log"), where z is what the
    solver moves.

    Attributes:
      kind: "linear": the law is affine in it, so it is solved for exactly given the others; "log": positive, moved
        along its logarithm; "plain": as it is.
      unit: f(p, m) of the other parameters p and of the mean logarithms m of the inputs (m["N"], ...) and of y
        (m["y"]). E.g. A in A / N^alpha has the unit exp(alpha m["N"] + m["y"]): z is then the size of the term at
        the center of the data, free of alpha. It may use parameters without unit and shift, and those listed before.
      shift: likewise.
      start: range of z from which starting points are drawn.
      spans: an input whose range of logarithms (around its mean) is added to `start` and `limits`.
      limits: hard limits of z, practical zero and infinity for "log" parameters.
    """

    kind: str = "plain"
    unit: Callable | None = None
    shift: Callable | None = None
    start: tuple[float, float] = (0.0, 1.0)
    spans: str | None = None
    limits: tuple[float, float] = (-INF, INF)


@dataclass(frozen=True, eq=False)
class Law:
    """A scaling law y = f(params, inputs); call it with dicts of natural-unit parameters and inputs.

    Attributes:
      name: as in `fitting.laws`.
      params: parameter names, in order; natural units.
      inputs: input names, in order, e.g. ("N", "D").
      equation: as printed with every fit.
      reference: the paper.
      function: f(params, inputs), two dicts of scalars or arrays, in `jax.numpy`.
      bounds: natural bounds (lo, hi) of each parameter.
      coordinates: a `Coordinate` for each parameter.
      positive: whether every input must be positive (true of every law in `fitting.laws`).
      constant_allowed: inputs that need not vary, such as the unique tokens U.
      plausible_range: ranges of parameters within which an optimum is preferred to a slightly lower one outside, where
        the published constants mean something. An optimum outside is taken when there is none inside, and reported.
      asymptotes: parameters that y tends to where its terms vanish; they may be negative where y is (see `signed`).
      lower_is_better: whether y is something that N and D make small, so that a frontier has a meaning.
      initial_guess: better starts: f(params (b, 1), inputs (n,), y (n,)) -> {name: (b,)} of some plain parameters given
        the others, e.g. slopes by linear regression in logarithms.
      sudden: values of parameters that put a change of the law between neighboring data points, where other starts
        rarely are: f(inputs (n,)) -> {name: (b,)}.
      canonical: params -> params of the same law with its interchangeable parts in order.
      custom: True for the user's own function, which a saved fit cannot carry.
      optimal_N: closed form of the loss-minimal N for C = 6ND: f(params, C) -> N. None where there is none.
      exponents: derived exponents, e.g. {"a": lambda p: p["beta"] / (p["alpha"] + p["beta"])}, N* ~ C^a.
      from_nd: (N, D) -> the law's own inputs, where it takes others that follow from them (e.g. M = D / N).
      to_nd: the law's inputs -> (N, D), the inverse.
    """

    name: str
    params: tuple[str, ...]
    inputs: tuple[str, ...]
    equation: str
    reference: str
    function: Callable = field(repr=False)
    bounds: Mapping[str, tuple[float, float]]
    coordinates: Mapping[str, Coordinate]
    positive: bool = True
    constant_allowed: tuple[str, ...] = ()
    plausible_range: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    asymptotes: tuple[str, ...] = ()
    lower_is_better: bool = True
    initial_guess: Callable | None = None
    sudden: Callable | None = None
    canonical: Callable | None = None
    custom: bool = False
    optimal_N: Callable | None = None
    exponents: Mapping[str, Callable] = field(default_factory=dict)
    from_nd: Callable | None = None
    to_nd: Callable | None = None

    def __post_init__(self) -> None:
        bounds = ", ".join(f"{k} in [{lo:g}, {hi:g}]" for k, (lo, hi) in self.bounds.items())
        text = f"{self.equation}\n\n{self.reference}\n\nInputs: {', '.join(self.inputs)}. Parameters: {bounds}."
        object.__setattr__(self, "__doc__", text)  # of this law: what help and notebooks show

    def __call__(self, params: Mapping[str, Any], inputs: Mapping[str, Any]) -> np.ndarray:
        """y at `params` and `inputs`, two dicts of numbers or arrays that broadcast: float64 array."""
        values = [np.asarray(params[k], np.float64) for k in self.params]
        values += [np.asarray(inputs[k], np.float64) for k in self.inputs]
        value = self._value(*values)[0]
        return np.array(np.broadcast_to(value, np.broadcast_shapes(*(v.shape for v in values))))

    def __repr__(self) -> str:
        return f"<law {self.name}: {self.equation}>"

    @cached_property
    def signed(self) -> Law:
        """The same law for a y that takes both signs (a reward, a log-odds): its asymptotes may be negative."""
        return (
            replace(self, bounds={**self.bounds, **{k: (-INF, INF) for k in self.asymptotes}})
            if self.asymptotes
            else self
        )

    @cached_property
    def _value(self) -> Callable[..., Any]:
        def function(*values: Any) -> Any:
            p = len(self.params)
            return self.function(dict(zip(self.params, values[:p])), dict(zip(self.inputs, values[p:])))

        return with_derivatives(function, 0, len(self.params) + len(self.inputs), 0)

    def compute(self, inputs: Mapping[str, Any]) -> np.ndarray | None:
        """6ND of each row, or None where the law's inputs do not give N and D."""
        nd = self.nd(inputs)
        return None if nd is None else 6.0 * nd[0] * nd[1]

    def nd(self, inputs: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray] | None:
        """(N, D) of each row, or None where the law's inputs do not give them."""
        if self.to_nd is not None:
            return self.to_nd(inputs)
        if "N" in self.inputs and "D" in self.inputs:
            return inputs["N"], inputs["D"]
        return None


def law(
    fn: Callable[[Any, Any], Any],
    params: Mapping[str, tuple[float, float]],
    inputs: str | Sequence[str],
    *,
    name: str | None = None,
    equation: str | None = None,
    reference: str = "",
    positive: bool = False,
) -> Law:
    """Your own law, fitted by the same machinery with exact gradients.

    Args:
      fn: f(params, inputs) -> y for one point, both dicts, written with `jax.numpy` (or plain arithmetic). It is
        traced with scalars, so it must treat each data point on its own.
      params: natural bounds {"a": (lo, hi), ...}; infinite ends are allowed, narrower bounds make the search
        easier. A bound with lo >= 0 that spans two decades or more is searched in logarithms.
      inputs: names of the columns it reads, e.g. ("x",).
      name: how messages call it; by default the function's own name.
      equation: what is printed; by default the name and its arguments.
      reference: where it comes from.
      positive: refuse data whose inputs are zero or negative.

    Returns:
      A `Law` for `fitting.fit`.

    Raises:
      LawError: bounds that are not pairs lo < hi, a name used twice, or a function that cannot be called with
        these names or does not return one number per point.

    Example:
      >>> from scaling_jax import fitting
      >>> bounds = {"a": (-9, 9), "b": (0, 9)}
      >>> line = fitting.law(lambda p, x: p["a"] + p["b"] * x["x"], bounds, inputs="x", name="line")
      >>> {k: round(v, 6) for k, v in fitting.fit(line, [1.0, 2.0, 3.0], [3.0, 5.0, 7.0]).params.items()}
      {'a': 1.0, 'b': 2.0}
    """
    name = name or str(getattr(fn, "__name__", "law")).replace("<lambda>", "law")
    if not callable(fn):
        raise LawError(f"law(fn={fn!r}): fn must be a function f(params, inputs).")
    if isinstance(inputs, str):
        inputs = (inputs,)
    bounds = _checked_bounds(name, params)
    names, inputs = tuple(bounds), tuple(inputs or ())
    if len(set(inputs)) != len(inputs) or not inputs or not all(isinstance(k, str) for k in inputs):
        raise LawError(f"law {name!r}: inputs={inputs!r} must be one or more different names.")

    flat, affine = _traced(fn, name, names, inputs)
    coordinates = {k: _own_coordinate(*bounds[k], k in {names[i] for i in affine}) for k in names}
    return Law(
        name=name, params=names, inputs=inputs, equation=equation or f"y = {name}({', '.join((*names, *inputs))})",
        reference=reference, function=lambda p, x: flat(*(p[k] for k in names), *(x[k] for k in inputs)), bounds=bounds,
        coordinates=coordinates, positive=positive, custom=True,
    )  # fmt: skip


def _traced(
    fn: Callable[[Any, Any], Any], name: str, names: tuple[str, ...], inputs: tuple[str, ...]
) -> tuple[Callable[..., Any], set[int]]:
    """(the law as a function of scalars, params before inputs; the params in which it is affine).

    Raises:
      LawError: `fn` cannot be traced with these names, or mixes data points.
    """

    def flat(*values: Any) -> Any:
        p = len(names)
        y: Any = fn(dict(zip(names, values[:p])), dict(zip(inputs, values[p:])))
        shape = None if y is None or isinstance(y, (tuple, list, dict)) else np.shape(y)
        if shape != ():
            what = f"shape {shape}" if hasattr(y, "shape") else f"a {type(y).__name__}"
            raise LawError(f"law {name!r} returned {what} for one data point; it must return one number per point.")
        return jnp.asarray(y, np.float64)

    try:
        affine = _affine(flat, len(names), len(names) + len(inputs))
        mixing = mixes_points(fn, names, inputs)
    except LawError:
        raise
    except KeyError as err:
        raise LawError(
            f"law {name!r} asks for {err.args[0]!r}, but its params are {', '.join(names)} and its inputs "
            f"{', '.join(inputs)}; name it in one of them."
        ) from None
    except Exception as err:
        raise LawError(
            f"law {name!r} cannot be traced with scalar params and inputs: {type(err).__name__}: "
            f"{str(err).splitlines()[0]} Write it with jax.numpy, for one data point at a time."
        ) from err
    if mixing:
        raise LawError(
            f"law {name!r} mixes data points ({mixing}): a law must give each point a value of its own. Compute such "
            "numbers from the data first and use them as constants."
        )
    return flat, affine


def _checked_bounds(name: str, params: Any) -> dict[str, tuple[float, float]]:
    if not isinstance(params, Mapping) or not params:
        raise LawError(f'law {name!r}: params={params!r} must be a dict of bounds, e.g. {{"a": (0, 10)}}.')
    bounds = {}
    for key, pair in params.items():
        if not isinstance(key, str):
            raise LawError(f"law {name!r}: a parameter is called {key!r}; give names, e.g. 'a'.")
        try:
            lo, hi = (float(v) for v in pair)
        except (TypeError, ValueError):
            raise LawError(f"law {name!r}: bounds of {key!r} are {pair!r}; give a pair (lo, hi).") from None
        if not lo < hi:
            raise LawError(f"law {name!r}: bounds of {key!r} are {pair!r}; lo must be below hi.")
        bounds[key] = (lo, hi)
    return bounds


def _affine(flat: Callable[..., Any], p: int, n_args: int) -> set[int]:
    """Parameters in which the law is jointly affine: no derivative by one of them depends on another of them."""
    depends = with_derivatives(flat, p, n_args, 1).dependence(n_args)
    if depends is None:  # only JAX can run this law: it is searched without that knowledge
        return set()
    chosen = set()
    for k in range(p):
        if not any(depends[1 + j] & {k} or depends[1 + k] & {j} for j in (*chosen, k)):
            chosen.add(k)
    return chosen


def _own_coordinate(lo: float, hi: float, affine: bool) -> Coordinate:
    if affine:
        return Coordinate("linear")
    if lo >= 0 and hi >= 100 * max(lo, 1e-6 if np.isfinite(hi) else 1.0):
        top = np.log(hi) if np.isfinite(hi) else INF
        bottom = np.log(lo) if lo > 0 else -INF
        start = (max(bottom, min(-7.0, top - 14.0)), min(top, max(7.0, bottom + 14.0)))
        return Coordinate("log", start=start, limits=(max(bottom, -100.0), min(top, 100.0)))
    if np.isfinite(lo) and np.isfinite(hi):
        return Coordinate("plain", start=(lo, hi))
    return Coordinate("plain", start=(max(lo, -10.0), min(hi, 10.0)) if lo < 10 and hi > -10 else (lo, hi))


def checked_fixed(law: Law, fixed: Mapping[str, Any]) -> dict[str, float]:
    """The parameters that are held, as floats in the law's order. Raises LawError where the law cannot have them so."""
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
