"""A checksum of a pytree of arrays, taken on the devices and the same however the arrays are sharded."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp


def fingerprint(tree: Any) -> jax.Array:
    """uint32 scalar: the sum, modulo 2^32, of every number's bits mixed with its place.

    The mix is a bijection for each place, so any change of one number changes the sum, and changes of several cancel
    with a chance of 2^-32. Sums modulo 2^32 do not depend on their order, so neither mesh nor layout matters.

    A program per shape of leaf: one for all of them compiles for seconds while the devices wait for the first save.
    """
    so_far = None
    for leaf in jax.tree.leaves(tree):
        so_far = _add(so_far, leaf)
    return _total(so_far)


@jax.jit
def _add(so_far: tuple[Any, Any] | None, x: Any) -> tuple[Any, Any]:
    """(sums, leaves so far) with one more leaf; sums along the first axis, which devices share, if they can be."""
    sums, number = (jnp.uint32(0), jnp.uint32(0)) if so_far is None else so_far
    if x.dtype.itemsize == 8:
        x = jax.lax.bitcast_convert_type(x, jnp.uint32)
    elif x.dtype != jnp.bool_:
        x = jax.lax.bitcast_convert_type(x, {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}[x.dtype.itemsize])
    place, stride = jnp.full(x.shape, number * jnp.uint32(0x9E3779B9), jnp.uint32), 1
    for axis in reversed(range(x.ndim)):
        place += jnp.uint32(stride % 2**32) * jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis)
        stride *= x.shape[axis]
    mixed = _mix(x.astype(jnp.uint32) ^ _mix(place))
    more = jnp.sum(mixed, axis=range(1, x.ndim), dtype=jnp.uint32)
    if so_far is not None and more.shape != sums.shape:
        sums, more = jnp.sum(sums, dtype=jnp.uint32), jnp.sum(more, dtype=jnp.uint32)
    return sums + more, number + 1


@jax.jit
def _total(so_far: tuple[Any, Any] | None) -> Any:
    return jnp.uint32(0) if so_far is None else jnp.sum(so_far[0], dtype=jnp.uint32)


def _mix(bits):
    """The finaliser of MurmurHash3, a bijection of 32-bit integers."""
    bits = (bits ^ (bits >> 16)) * jnp.uint32(0x85EBCA6B)
    bits = (bits ^ (bits >> 13)) * jnp.uint32(0xC2B2AE35)
    return bits ^ (bits >> 16)
