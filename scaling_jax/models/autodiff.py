"""Linear maps with a transpose of our own, under every transformation of JAX: jit, vmap, grad, jvp, and their mixtures.

`jax.custom_vjp` forbids forward-mode differentiation, so Hessian-vector products through a model would be impossible.
A backward pass is the transpose of a linear map, and only that needs replacing. `jax.custom_derivatives.linear_call`
does so, but cannot be vmapped; this is the same idea with a batching rule.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

Map = Callable[[tuple[Any, ...], Any], Any]  # (residuals, linear argument) -> array

_linear_map = Primitive("linear_map")


def linear_map(function: Map, transpose: Map, residuals: tuple[Any, ...], argument: Any) -> Any:
    """function(residuals, argument), whose transpose by the argument is transpose(residuals, cotangent).

    Args:
      function: linear in its second argument; differentiated by the residuals as JAX derives it.
      transpose: its transpose, [shape of the output] -> [shape of the argument]; linear in its second argument.
      residuals: arrays on which both depend.
      argument: the array in which the map is linear.
    """
    return _linear_map.bind(*residuals, argument, function=function, transpose=transpose)


def jaxpr_of(eqn: Any) -> Any | None:
    """The jaxpr of a `linear_map` equation, for whoever counts operations; None for other equations."""
    if eqn.primitive is not _linear_map:
        return None
    shapes = [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in eqn.invars]
    return jax.make_jaxpr(lambda *args: _call(*args, **eqn.params))(*shapes).jaxpr


def _call(*args: Any, function: Map, transpose: Map) -> Any:
    del transpose
    return function(args[:-1], args[-1])


def _abstract(*args: Any, function: Map, transpose: Map) -> Any:
    shapes = [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in args]
    out = jax.eval_shape(lambda *a: _call(*a, function=function, transpose=transpose), *shapes)
    return ShapedArray(out.shape, out.dtype)


def _jvp(primals: Any, tangents: Any, function: Map, transpose: Map) -> Any:
    *residuals, argument = primals
    *residual_tangents, argument_tangent = tangents
    out = linear_map(function, transpose, tuple(residuals), argument)
    terms = []
    if not isinstance(argument_tangent, ad.Zero):
        terms.append(linear_map(function, transpose, tuple(residuals), argument_tangent))
    moving = [i for i, t in enumerate(residual_tangents) if not isinstance(t, ad.Zero)]
    if moving:

        def by_residuals(*moved: Any) -> Any:
            values = list(residuals)
            for i, value in zip(moving, moved):
                values[i] = value
            return function(tuple(values), argument)

        moved, tangents = [residuals[i] for i in moving], [residual_tangents[i] for i in moving]
        terms.append(jax.jvp(by_residuals, moved, tangents)[1])
    if not terms:
        return out, jnp.zeros_like(out)
    return out, terms[0] if len(terms) == 1 else terms[0] + terms[1]


def _transpose(cotangent: Any, *args: Any, function: Map, transpose: Map) -> Any:
    residuals = args[:-1]
    if isinstance(cotangent, ad.Zero):
        return [None] * len(args)
    return [None] * len(residuals) + [linear_map(transpose, function, residuals, cotangent)]


def _batch(args: Any, axes: Any, function: Map, transpose: Map) -> Any:
    size = next(arg.shape[axis] for arg, axis in zip(args, axes) if axis is not None)
    *residuals, argument = (arg if axis is None else jnp.moveaxis(arg, axis, 0) for arg, axis in zip(args, axes))
    if axes[-1] is None:  # the argument carries the batch, so that its cotangent does
        argument = jnp.broadcast_to(argument, (size, *argument.shape))
    inner = (tuple(None if axis is None else 0 for axis in axes[:-1]), 0)
    out = linear_map(jax.vmap(function, inner), jax.vmap(transpose, inner), tuple(residuals), argument)
    return out, 0


_linear_map.def_impl(jax.jit(_call, static_argnames=("function", "transpose")))
_linear_map.def_abstract_eval(_abstract)
ad.primitive_jvps[_linear_map] = _jvp
ad.primitive_transposes[_linear_map] = _transpose
batching.primitive_batchers[_linear_map] = _batch
mlir.register_lowering(_linear_map, mlir.lower_fun(_call, multiple_results=False))
