"""A law, written once in `jax.numpy`, evaluated in NumPy float64 with JAX's own exact derivatives.

JAX traces the law for *one* data point (all arguments are scalars) and differentiates that trace; the resulting
list of elementary operations is then replayed with NumPy on whole arrays, where broadcasting supplies both the
points and the batch of parameter vectors. Tracing starts no JAX backend, so a fit takes no accelerator, does not
compile, and is float64 whatever the caller's configuration. A law that uses an operation not listed here (loops,
vectors inside the law) is run by JAX itself on the CPU instead, on a client of its own that starts no other backend.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any

import jax
import numpy as np
from jaxlib.xla_client import make_cpu_client


def _special(name: str) -> Callable[..., np.ndarray]:
    def call(*args: np.ndarray) -> np.ndarray:
        import scipy.special  # imported when a law needs it: it would be a fifth of our import time

        return getattr(scipy.special, name)(*args)

    return call


def _integer_pow(x: np.ndarray, *, y: int) -> np.ndarray:
    if y == 2:
        return x * x
    return np.reciprocal(x) if y == -1 else np.power(x, float(y))


def _select_n(which: np.ndarray, *cases: np.ndarray) -> np.ndarray:
    if len(cases) == 2:
        return np.where(which, cases[1], cases[0])
    return np.choose(which, cases)


def _convert(x: np.ndarray, *, new_dtype: Any, **_: Any) -> np.ndarray:
    if np.issubdtype(new_dtype, np.floating):
        return np.asarray(x, np.float64)
    return np.asarray(x).astype(new_dtype)


# Operations that act on each element alone; anything else in a law's trace sends it to JAX itself.
_ELEMENTWISE = {
    "add": np.add, "add_any": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide, "neg": np.negative,
    "exp": np.exp, "exp2": np.exp2, "expm1": np.expm1, "log": np.log, "log1p": np.log1p, "pow": np.power,
    "sqrt": np.sqrt, "rsqrt": lambda x: 1 / np.sqrt(x), "cbrt": np.cbrt, "square": np.square, "abs": np.abs,
    "sign": np.sign, "floor": np.floor, "ceil": np.ceil, "max": np.maximum, "min": np.minimum, "rem": np.fmod,
    "sin": np.sin, "cos": np.cos, "tan": np.tan, "asin": np.arcsin, "acos": np.arccos, "atan": np.arctan,
    "atan2": np.arctan2, "sinh": np.sinh, "cosh": np.cosh, "tanh": np.tanh, "asinh": np.arcsinh,
    "acosh": np.arccosh, "atanh": np.arctanh, "logistic": lambda x: 1 / (1 + np.exp(-x)), "erf": _special("erf"),
    "erfc": _special("erfc"), "erf_inv": _special("erfinv"), "lgamma": _special("gammaln"),
    "digamma": _special("digamma"), "eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal,
    "gt": np.greater, "ge": np.greater_equal, "and": np.logical_and, "or": np.logical_or, "not": np.logical_not,
    "is_finite": np.isfinite, "stop_gradient": lambda x: x, "copy": lambda x: x, "copy_p": lambda x: x,
    "clamp": lambda lo, x, hi: np.minimum(np.maximum(x, lo), hi), "select_n": _select_n,
}  # fmt: skip
_WITH_PARAMS = {"integer_pow": _integer_pow, "convert_element_type": _convert}
_CALLS = ("jaxpr", "call_jaxpr", "fun_jaxpr")


class _NeedsJax(Exception):
    """The trace has an operation that only JAX can run."""


class _Program:
    """A traced function as straight Python: one NumPy call a line, common sub-expressions computed once."""

    def __init__(self, closed: Any) -> None:
        self._ops: list[tuple[Callable, tuple[int, ...], int]] = []
        self._seen: dict[tuple, int] = {}
        self._constants: dict[int, Any] = {}
        self._slots = len(closed.jaxpr.invars)
        for var in (*closed.jaxpr.invars, *closed.jaxpr.constvars):
            if getattr(var.aval, "ndim", 0):
                raise _NeedsJax(str(var.aval))
        self._outputs = self._inline(closed.jaxpr, closed.consts, list(range(self._slots)))
        self._drop_unused()
        self._run = self._compiled(len(closed.jaxpr.invars))

    def _constant(self, value: Any) -> int:
        value = np.asarray(value)[()]  # JAX's literals answer NumPy slowly
        key = ("const", value.dtype.kind, float(value))
        if key not in self._seen:
            self._seen[key], self._constants[self._slots] = self._slots, value
            self._slots += 1
        return self._seen[key]

    def _inline(self, jaxpr: Any, consts: Sequence[Any], slots: Sequence[int]) -> list[int]:
        from jax.extend.core import Literal  # a tenth of our import time, needed only to trace

        env = dict(zip(jaxpr.invars, slots))
        env.update((var, self._constant(np.asarray(c)[()])) for var, c in zip(jaxpr.constvars, consts))

        def slot(atom: Any) -> int:
            return self._constant(atom.val) if isinstance(atom, Literal) else env[atom]

        for eqn in jaxpr.eqns:
            env.update(zip(eqn.outvars, self._equation(eqn, [slot(a) for a in eqn.invars])))
        return [slot(a) for a in jaxpr.outvars]

    def _equation(self, eqn: Any, inputs: list[int]) -> list[int]:
        name = eqn.primitive.name
        for key in _CALLS:
            inner = eqn.params.get(key)
            if inner is not None and name not in ("while", "scan", "cond"):
                inner_jaxpr, consts = (inner.jaxpr, inner.consts) if hasattr(inner, "consts") else (inner, ())
                return self._inline(inner_jaxpr, consts, inputs)
        if len(eqn.outvars) != 1 or any(getattr(v.aval, "ndim", 0) for v in eqn.outvars):
            raise _NeedsJax(name)
        if name in _WITH_PARAMS:
            function = partial(_WITH_PARAMS[name], **eqn.params)
            key = (name, str(sorted(eqn.params.items(), key=operator.itemgetter(0))), *inputs)
        elif name in _ELEMENTWISE:
            function, key = _ELEMENTWISE[name], (name, *inputs)
        else:
            raise _NeedsJax(name)
        return [self._emit(name, function, key, inputs)]

    def _emit(self, name: str, function: Callable, key: tuple, inputs: list[int]) -> int:
        values = [self._constants.get(s) for s in inputs]
        if name == "mul" and 1.0 in values:  # derivatives are full of these
            return inputs[1 - values.index(1.0)]
        if name == "mul" and 0.0 in values:  # of what does not depend on the variable
            return self._constant(0.0)
        if name in ("add", "add_any") and 0.0 in values:
            return inputs[1 - values.index(0.0)]
        if key not in self._seen:
            if all(v is not None for v in values):
                self._seen[key] = self._constant(function(*values))
            else:
                self._seen[key] = self._slots
                self._ops.append((function, tuple(inputs), self._slots))
                self._slots += 1
        return self._seen[key]

    def _drop_unused(self) -> None:
        needed, kept = set(self._outputs), []
        for op in reversed(self._ops):
            if op[2] in needed:
                needed.update(op[1])
                kept.append(op)
        self._ops = kept[::-1]

    def dependence(self, n_args: int) -> list[set[int]]:
        """For each output, the set of arguments (by position) it depends on."""
        reach = {i: {i} for i in range(n_args)}
        for _, inputs, output in self._ops:
            reach[output] = set().union(*(reach.get(s, set()) for s in inputs))
        return [reach.get(s, set()) for s in self._outputs]

    def _compiled(self, n_args: int) -> Callable[..., list[Any]]:
        """The operations as one Python function: for small arrays, looking up each of them would cost as much again."""
        last = {s: i for i, (_, inputs, _) in enumerate(self._ops) for s in inputs}
        keep = set(self._outputs) | set(self._constants)
        names: dict[str, Any] = {f"s{slot}": value for slot, value in self._constants.items()}
        lines = [f"def run({', '.join(f's{i}' for i in range(n_args))}):"]
        for i, (function, inputs, output) in enumerate(self._ops):
            names[f"f{i}"] = function
            lines.append(f"    s{output} = f{i}({', '.join(f's{s}' for s in inputs)})")
            # Freed as soon as they are used for the last time: a million rows must not keep every intermediate.
            lines += [f"    s{s} = None" for s in sorted(set(inputs)) if last[s] == i and s not in keep]
        exec("\n".join([*lines, f"    return [{', '.join(f's{s}' for s in self._outputs)}]"]), names)
        return names["run"]

    def __call__(self, *args: np.ndarray) -> list[np.ndarray]:
        with np.errstate(all="ignore"):  # a start far outside the data may overflow; the solver rejects it
            return self._run(*args)


SMALLEST_BATCH = 256


@lru_cache(maxsize=1)
def _cpu() -> Any:
    """A CPU device of its own client: `jax.devices("cpu")` would initialize every backend, accelerators included."""
    return make_cpu_client().local_devices()[0]


class _JaxProgram:
    """The same function run by JAX on the CPU, for laws whose trace NumPy cannot replay."""

    def __init__(self, function: Callable[..., Any]) -> None:
        def point(*args: Any) -> tuple:
            return tuple(function(*args))

        self._compiled = jax.jit(jax.vmap(point))

    def dependence(self, n_args: int) -> None:
        """Unknown."""

    def __call__(self, *args: np.ndarray) -> list[np.ndarray]:
        args = tuple(np.asarray(a, np.float64) for a in args)
        shape = np.broadcast_shapes(*(a.shape for a in args))
        size = math.prod(shape)
        # Batches shrink as starts converge: rounded up to powers of two, few of them need a compilation.
        room = max(SMALLEST_BATCH, 1 << (size - 1).bit_length())
        with jax.enable_x64(True), jax.default_device(_cpu()):
            flat = [np.resize(np.broadcast_to(a, shape).ravel(), room) if size else np.ones(room) for a in args]
            return [np.asarray(o)[:size].reshape(shape) for o in self._compiled(*flat)]


def trace(function: Callable[..., Any], n_args: int) -> _Program | _JaxProgram:
    """Traces `function` of `n_args` scalars to a tuple of scalars; returns it as a NumPy function of arrays."""
    scalar = jax.ShapeDtypeStruct((), np.float64)
    with jax.enable_x64(True):
        closed = jax.make_jaxpr(lambda *a: tuple(function(*a)))(*[scalar] * n_args)
    try:
        return _Program(closed)
    except _NeedsJax:
        return _JaxProgram(function)


def with_derivatives(function: Callable[..., Any], n_variables: int, n_args: int, order: int) -> _Program | _JaxProgram:
    """`trace` of (value, gradient[, upper triangle of the Hessian]) with respect to the first `n_variables`.

    Args:
      function: of `n_args` scalars, returning a scalar, in `jax.numpy`.
      n_variables: how many leading arguments to differentiate by.
      n_args: how many arguments it takes.
      order: 0, 1 or 2.

    Returns:
      A function of `n_args` broadcastable arrays returning a list: the value, then each first derivative, then
      for order 2 the second derivatives (i, j) with i <= j, row by row.
    """
    if order == 0 or n_variables == 0:
        return trace(lambda *a: (function(*a),), n_args)
    variables = tuple(range(n_variables))
    value_and_grad = jax.value_and_grad(function, argnums=variables)

    def first(*args: Any) -> tuple:
        value, gradient = value_and_grad(*args)
        return (value, *gradient)

    def second(*args: Any) -> tuple:
        def gradient(*z: Any) -> tuple:
            return value_and_grad(*z, *args[n_variables:])[1]

        rows = []
        for i in variables:
            tangent = tuple(np.float64(i == j) for j in variables)
            rows.extend(jax.jvp(gradient, args[:n_variables], tangent)[1][i:])
        return (*first(*args), *rows)

    return trace(first if order == 1 else second, n_args)


def with_jacobian(function: Callable[..., Any], n_variables: int, n_args: int) -> _Program | _JaxProgram:
    """`trace` of a function that returns a sequence of scalars, and its derivatives by the first `n_variables`.

    Returns:
      A function of `n_args` broadcastable arrays returning a list: the values, then for each variable the derivatives
      of all values by it; those that are constant as numbers.
    """

    def both(*args: Any) -> tuple:
        given = args[n_variables:]
        values, pushed = jax.linearize(lambda *z: tuple(function(*z, *given)), *args[:n_variables])
        columns = (pushed(*(np.float64(i == j) for j in range(n_variables))) for i in range(n_variables))
        return (*values, *(d for column in columns for d in column))

    return trace(both, n_args)


def mixes_points(
    fn: Callable[[Any, Any], Any], names: Sequence[str], inputs: Sequence[str], points: int = 7
) -> str | None:
    """The operation by which fn(params, inputs) combines data points with each other, or None.

    Seen in a trace with `points` rows: an operation whose operands have that length and whose results do not.
    """
    scalar, column = (jax.ShapeDtypeStruct(shape, np.float64) for shape in ((), (points,)))
    try:
        with jax.enable_x64(True):
            closed = jax.make_jaxpr(fn)({k: scalar for k in names}, {k: column for k in inputs})
    except Exception:  # written for one point only, which is what matters
        return None
    for eqn in closed.jaxpr.eqns:
        of = [v for v in eqn.invars if points in getattr(v.aval, "shape", ())]
        if of and not any(points in getattr(v.aval, "shape", ()) for v in eqn.outvars):
            return eqn.primitive.name
    return None
