"""A law and its derivatives by the solver's coordinates, for batches of them.

The first derivatives come from the chain rule: those of the natural parameters by the coordinates are the same at every
data point, so only those of the law by its natural parameters are as large as the data.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import jax.numpy as jnp
import numpy as np

from scaling_jax.fitting.laws._evaluate import with_derivatives, with_jacobian
from scaling_jax.fitting.laws.base import Law

Array = np.ndarray


@lru_cache(maxsize=512)
def program(
    law: Law, free: tuple[str, ...], fixed: tuple[str, ...], center: tuple[str, ...], order: int
) -> Callable[..., list[Array]]:
    """The traced law and its derivatives by the free coordinates, shared by all problems of one law object."""
    groups = (free, fixed, law.inputs, center)

    def function(*args: Any) -> Any:
        z, held, x, m = _named(args, groups)
        return law.function(constrained(law, z, held, m, jnp.exp), x)

    return with_derivatives(function, len(free), sum(map(len, groups)), order)


@lru_cache(maxsize=512)
def _natural(
    law: Law, free: tuple[str, ...], fixed: tuple[str, ...], center: tuple[str, ...]
) -> Callable[..., list[Array]]:
    """The free parameters in natural units and their derivatives by the coordinates: the same at every data point."""
    groups = (free, fixed, center)

    def function(*args: Any) -> list[Any]:
        z, held, m = _named(args, groups)
        params = constrained(law, z, held, m, jnp.exp)
        return [params[k] for k in free]

    return with_jacobian(function, len(free), sum(map(len, groups)))


@lru_cache(maxsize=512)
def _of_natural(law: Law, free: tuple[str, ...], fixed: tuple[str, ...]) -> Callable[..., list[Array]]:
    """The law and its derivatives by the free parameters in natural units."""
    groups = (free, fixed, law.inputs)

    def function(*args: Any) -> Any:
        p, held, x = _named(args, groups)
        return law.function({**held, **p}, x)

    return with_derivatives(function, len(free), sum(map(len, groups)), 1)


def _named(args: Iterable[Any], groups: Sequence[Sequence[str]]) -> list[dict[str, Any]]:
    values = iter(args)
    return [{k: next(values) for k in names} for names in groups]


def first_order(
    law: Law,
    free: tuple[str, ...],
    fixed: Mapping[str, Any],
    center: Mapping[str, float],
    inputs: Sequence[Array],
    z: Array,
) -> tuple[Array, Array]:
    """The law at rows of z (b, p), (b, n), and its derivatives by z, (b, p, n).

    Args:
      law: a `Law`.
      free: names of the parameters that z stands for.
      fixed: natural-unit values of the others, numbers or (b, 1).
      center: as in `Coordinates`.
      inputs: arrays (n,), in the law's order.
      z: (b, p).
    """
    b, p = z.shape
    out = _natural(law, free, tuple(fixed), tuple(center))(*columns(z), *fixed.values(), *center.values())
    by_z = np.zeros((b, p * p))
    for i, derivative in enumerate(out[p:]):
        if np.ndim(derivative) or derivative:  # most are the number 0
            by_z[:, i : i + 1] = derivative
    by_z = by_z.reshape(b, p, p)  # by z, of the parameters
    f, *by_params = _of_natural(law, free, tuple(fixed))(*out[:p], *fixed.values(), *inputs)
    f = np.broadcast_to(f, (b, len(inputs[0])))
    rows = stacked(by_params, f)
    with np.errstate(all="ignore"):
        jacobian = by_z @ rows
        if not np.isfinite(jacobian.sum()):
            jacobian = without_vanished(by_z @ without_vanished(rows, f), f)
    return f, jacobian


def columns(z: Array) -> list[Array]:
    """(b, 1) arrays, one for each coordinate, of z (b, p)."""
    return [z[:, i : i + 1] for i in range(z.shape[1])]


def stacked(rows: Sequence[Array], f: Array) -> Array:
    """(b, p, n) of p arrays that broadcast to f (b, n)."""
    whole = np.empty((len(f), len(rows), f.shape[1]))
    for i, row in enumerate(rows):
        whole[:, i] = row
    return whole


def without_vanished(jacobian: Array, f: Array) -> Array:
    """Where a term has vanished by underflow its derivatives read 0 * inf."""
    with np.errstate(all="ignore"):
        whole = np.isfinite(jacobian.sum())
    if not whole:
        jacobian[np.isfinite(f)[:, None, :] & ~np.isfinite(jacobian)] = 0.0
    return jacobian


def constrained(
    law: Law, z: Mapping[str, Any], fixed: Mapping[str, Any], center: Mapping[str, Any], exp: Callable[[Any], Any]
) -> dict[str, Any]:
    """Natural-unit parameters of coordinates z (dict): first those with no unit or shift, then in declared order."""
    params = dict(fixed)
    free = [k for k in law.coordinates if k in z]
    simple = [k for k in free if law.coordinates[k].unit is None and law.coordinates[k].shift is None]
    for k in (*simple, *(k for k in free if k not in simple)):
        c = law.coordinates[k]
        value = exp(z[k]) if c.kind == "log" else z[k]
        if c.unit is not None:
            value = value * c.unit(params, center)
        params[k] = value if c.shift is None else value + c.shift(params, center)
    return params
