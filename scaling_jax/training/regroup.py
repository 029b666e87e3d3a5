"""States of a pack saved on one mesh, laid out for another: other groups, other padding, the same lanes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

P = jax.sharding.PartitionSpec


def as_saved(like: tuple[Any, ...], num_groups: int, lanes_per_group: int) -> tuple[Any, ...]:
    """`like` (ShapeDtypeStructs with shardings, stacked by lane) in the geometry that was saved.

    Saved lanes that do not divide evenly over the mesh's `run` axis are read whole on every device.
    """

    def one(leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        mesh, spec = leaf.sharding.mesh, leaf.sharding.spec
        first = spec[0] if lanes_per_group % mesh.shape["run"] == 0 else None
        sharding = jax.NamedSharding(mesh, P(first, *spec[1:]))
        return jax.ShapeDtypeStruct((lanes_per_group, *leaf.shape[1:]), leaf.dtype, sharding=sharding)

    return (jax.tree.map(one, like[0]),) * num_groups


def regroup(states: tuple[Any, ...], like: tuple[Any, ...], lanes: Sequence[int]) -> tuple[Any, ...]:
    """Some of the lanes of `states`, in the groups and shardings of `like`.

    Args:
      states: groups of lanes as they were saved.
      like: groups of ShapeDtypeStructs with shardings.
      lanes: places of the wanted lanes in `states`. What `like` has beyond them is filled with frozen copies of the
        last one, as `LaneProgram` wants it.
    """
    per_group = jax.tree.leaves(like[0])[0].shape[0]
    places = len(like) * per_group
    wanted = np.asarray([*lanes, *[lanes[-1]] * (places - len(lanes))])

    def convert(states: tuple[Any, ...]) -> tuple[Any, ...]:
        whole = jax.tree.map(lambda *groups: jnp.concatenate(groups)[wanted], *states)
        frozen = jnp.arange(places) >= len(lanes)
        whole["diverged_step"] = jnp.where(frozen, 0, whole["diverged_step"])
        return tuple(jax.tree.map(lambda x, i=i: x[i : i + per_group], whole) for i in range(0, places, per_group))

    return jax.jit(convert, out_shardings=jax.tree.map(lambda leaf: leaf.sharding, like))(states)
