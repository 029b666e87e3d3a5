"""A checksum of a pytree of arrays, taken on the devices and the same however the arrays are sharded."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

GOLDEN = 0x9E3779B9  # between the places of two leaves
BLOCK = 2**15  # numbers that a core's cache holds through all of NumPy's steps


def fingerprint(tree: Any) -> jax.Array:
    """uint32 scalar: the sum, modulo 2^32, of every number's bits mixed with its place.

    The mix is a bijection for each place, so any change of one number changes the sum, and changes of several cancel
    with a chance of 2^-32. Sums modulo 2^32 do not depend on their order, so neither mesh nor layout matters.

    On an accelerator, a program per shape of leaf: one for all of them compiles for seconds while the devices wait for
    the first save. On a CPU even these would compile for longer than NumPy takes.
    """
    leaves = jax.tree.leaves(tree)
    if leaves and all(map(_on_this_host, leaves)):
        total = sum(_of_host(jax.device_get(leaf), number) for number, leaf in enumerate(leaves)) % 2**32
        return jax.device_put(np.uint32(total), _everywhere(leaves[0]))
    so_far = None
    for leaf in leaves:
        so_far = _add(so_far, leaf)
    return _total(so_far)


def _on_this_host(x: Any) -> bool:
    """Whether NumPy can read an array where it is."""
    return not isinstance(x, jax.Array) or (x.is_fully_addressable and x.platform() == "cpu")


def _everywhere(x: Any) -> Any:
    """Where a scalar beside an array goes: on all of its mesh; None for the default device."""
    sharding = getattr(x, "sharding", None)
    if isinstance(sharding, jax.NamedSharding):
        return jax.NamedSharding(sharding.mesh, jax.sharding.PartitionSpec())
    return sharding


def _of_host(x: np.ndarray, number: int) -> int:
    """The sum of one leaf, the `number`-th."""
    if x.dtype != np.bool_:
        x = np.ascontiguousarray(x).reshape(-1).view({1: np.uint8, 2: np.uint16}.get(x.dtype.itemsize, np.uint32))
    bits, first, total = x.reshape(-1), number * GOLDEN, 0
    for begin in range(0, bits.size, BLOCK):
        part = bits[begin : begin + BLOCK].astype(np.uint32)
        place = np.arange(len(part), dtype=np.uint32)
        place += np.uint32((first + begin) % 2**32)
        part ^= _mixed(place)
        total += int(_mixed(part).sum(dtype=np.uint32))
    return total


def _mixed(bits: np.ndarray) -> np.ndarray:
    """`_mix` in place."""
    bits ^= bits >> np.uint32(16)
    bits *= np.uint32(0x85EBCA6B)
    bits ^= bits >> np.uint32(13)
    bits *= np.uint32(0xC2B2AE35)
    bits ^= bits >> np.uint32(16)
    return bits


@jax.jit
def _add(so_far: tuple[Any, Any] | None, x: Any) -> tuple[Any, Any]:
    """(sums, leaves so far) with one more leaf; sums along the first axis, which devices share, if they can be."""
    sums, number = (jnp.uint32(0), jnp.uint32(0)) if so_far is None else so_far
    if x.dtype.itemsize == 8:
        x = jax.lax.bitcast_convert_type(x, jnp.uint32)
    elif x.dtype != jnp.bool_:
        x = jax.lax.bitcast_convert_type(x, {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}[x.dtype.itemsize])
    place, stride = jnp.full(x.shape, number * jnp.uint32(GOLDEN), jnp.uint32), 1
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
