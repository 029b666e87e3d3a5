"""A checksum of a pytree of arrays, taken on the devices and the same however the arrays are sharded."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp


@jax.jit
def fingerprint(tree: Any):
    """uint32 scalar: the sum, modulo 2^32, of every number's bits mixed with its place.

    The mix is a bijection for each place, so any change of one number changes the sum, and changes of several cancel
    with a chance of 2^-32. Sums modulo 2^32 do not depend on their order, so neither mesh nor layout matters.
    """
    total = jnp.uint32(0)
    for number, leaf in enumerate(jax.tree.leaves(tree)):
        total += _sum(leaf, number)
    return total


def _sum(x, number: int):
    if x.dtype.itemsize == 8:
        x = jax.lax.bitcast_convert_type(x, jnp.uint32)
    elif x.dtype != jnp.bool_:
        x = jax.lax.bitcast_convert_type(x, {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}[x.dtype.itemsize])
    place, stride = jnp.full(x.shape, number * 0x9E3779B9 % 2**32, jnp.uint32), 1
    for axis in reversed(range(x.ndim)):
        place += jnp.uint32(stride % 2**32) * jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis)
        stride *= x.shape[axis]
    return jnp.sum(_mix(x.astype(jnp.uint32) ^ _mix(place)), dtype=jnp.uint32)


def _mix(bits):
    """The finaliser of MurmurHash3, a bijection of 32-bit integers."""
    bits = (bits ^ (bits >> 16)) * jnp.uint32(0x85EBCA6B)
    bits = (bits ^ (bits >> 13)) * jnp.uint32(0xC2B2AE35)
    return bits ^ (bits >> 16)
