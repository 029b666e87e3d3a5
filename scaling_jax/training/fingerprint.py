"""A checksum of a pytree of arrays, taken on the devices and the same however the arrays are sharded."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp


@jax.jit
def fingerprint(tree: Any):
    """uint32 scalar: the sum of all bits weighted by place, modulo 2^32.

    Weights are odd, so every change of a single number changes the sum; sums modulo 2^32 do not depend on their order,
    so neither mesh nor layout changes it.
    """
    total = jnp.uint32(0)
    for number, leaf in enumerate(jax.tree.leaves(tree)):
        total += jnp.uint32(2 * number + 1) * _sum(leaf)
    return total


def _sum(x):
    if x.dtype.itemsize == 8:
        x = jax.lax.bitcast_convert_type(x, jnp.uint32)
    elif x.dtype != jnp.bool_:
        x = jax.lax.bitcast_convert_type(x, {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}[x.dtype.itemsize])
    place, stride = jnp.zeros(x.shape, jnp.uint32), 1
    for axis in reversed(range(x.ndim)):
        place += jnp.uint32(stride % 2**32) * jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis)
        stride *= x.shape[axis]
    # Knuth's multiplicative hash scatters the places; the lowest bit set keeps the weight invertible.
    weight = (place * jnp.uint32(2654435761)) | jnp.uint32(1)
    return jnp.sum(x.astype(jnp.uint32) * weight, dtype=jnp.uint32)
