"""A checksum of a pytree of arrays, taken on the devices and the same however the arrays are sharded."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

GOLDEN = 0x9E3779B9  # between the first places of two arrays
STACKED_BYTES = 2**20  # larger arrays are summed one by one: a stack of them would be a copy of the state


@jax.jit
def fingerprint(tree: Any):
    """uint32 scalar: the sum, modulo 2^32, of every number's bits mixed with its place.

    The mix is a bijection for each place, so any change of one number changes the sum, and changes of several cancel
    with a chance of 2^-32. Sums modulo 2^32 do not depend on their order, so neither mesh nor layout matters. Small
    arrays of one shape are summed as one, since a state has a hundred of them and each sum is a kernel to compile.
    """
    alike: dict[Any, list[tuple[int, Any]]] = {}
    for number, leaf in enumerate(jax.tree.leaves(tree)):
        key = (leaf.shape, leaf.dtype, number if leaf.nbytes > STACKED_BYTES else None)
        alike.setdefault(key, []).append((number, leaf))
    total = jnp.uint32(0)
    for some in alike.values():
        numbers, leaves = zip(*some)
        total += _sum(jnp.stack(leaves), np.asarray(numbers, np.uint32))
    return total


def _sum(x, number_N):
    """The sum of N arrays that are stacked on the first axis."""
    if x.dtype.itemsize == 8:
        x = jax.lax.bitcast_convert_type(x, jnp.uint32)
    elif x.dtype != jnp.bool_:
        x = jax.lax.bitcast_convert_type(x, {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}[x.dtype.itemsize])
    first_N = jnp.asarray(number_N * np.uint32(GOLDEN))
    place, stride = jnp.broadcast_to(first_N.reshape(-1, *[1] * (x.ndim - 1)), x.shape), 1
    for axis in reversed(range(1, x.ndim)):
        place += jnp.uint32(stride % 2**32) * jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis)
        stride *= x.shape[axis]
    return jnp.sum(_mix(x.astype(jnp.uint32) ^ _mix(place)), dtype=jnp.uint32)


def _mix(bits):
    """The finaliser of MurmurHash3, a bijection of 32-bit integers."""
    bits = (bits ^ (bits >> 16)) * jnp.uint32(0x85EBCA6B)
    bits = (bits ^ (bits >> 13)) * jnp.uint32(0xC2B2AE35)
    return bits ^ (bits >> 16)
