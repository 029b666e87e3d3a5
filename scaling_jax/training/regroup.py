"""States of a pack saved on one mesh, laid out for another: other groups, other padding, the same lanes."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

P = jax.sharding.PartitionSpec


def as_saved(like: tuple[Any, ...], num_groups: int, lanes_per_group: int) -> tuple[Any, ...]:
    """`like` (ShapeDtypeStructs with shardings, stacked by lane) in the geometry that was saved.

    What the saved lanes do not divide evenly over the mesh's `run` axis is read whole on every device.
    """

    def one(leaf):
        mesh, spec = leaf.sharding.mesh, leaf.sharding.spec
        first = spec[0] if lanes_per_group % mesh.shape["run"] == 0 else None
        sharding = jax.NamedSharding(mesh, P(first, *spec[1:]))
        return jax.ShapeDtypeStruct((lanes_per_group, *leaf.shape[1:]), leaf.dtype, sharding=sharding)

    return (jax.tree.map(one, like[0]),) * num_groups


def regroup(states: tuple[Any, ...], like: tuple[Any, ...], num_lanes: int) -> tuple[Any, ...]:
    """The first `num_lanes` lanes of `states`, in the groups and shardings of `like`.

    Places beyond them hold frozen copies of the last lane, as `LaneProgram` wants it.
    """
    per_group = jax.tree.leaves(like[0])[0].shape[0]
    places = len(like) * per_group

    def convert(states):
        def stack(*groups):
            lanes = jnp.concatenate(groups)[:num_lanes]
            return jnp.concatenate([lanes, jnp.repeat(lanes[-1:], places - num_lanes, axis=0)])

        whole = jax.tree.map(stack, *states)
        frozen = jnp.arange(places) >= num_lanes
        whole["diverged_step"] = jnp.where(frozen, 0, whole["diverged_step"])
        return tuple(jax.tree.map(lambda x, i=i: x[i : i + per_group], whole) for i in range(0, places, per_group))

    return jax.jit(convert, out_shardings=jax.tree.map(lambda leaf: leaf.sharding, like))(states)
