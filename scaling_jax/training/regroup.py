"""States of a pack in one geometry, laid out for another: groups, padding or devices differ, the lanes do not."""

from __future__ import annotations

import functools
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


def regroup(states: tuple[Any, ...], like: tuple[Any, ...], lanes: Sequence[int | None]) -> tuple[Any, ...]:
    """Some of the lanes of `states`, in the groups and shardings of `like`, on the same devices.

    Args:
      states: groups of lanes as they are.
      like: groups of ShapeDtypeStructs with shardings.
      lanes: places of the wanted lanes in `states`. Places of `like` that are None, or beyond them, are filled with
        frozen copies, as `LaneProgram` wants it.
    """
    shardings, structure = jax.tree.flatten(jax.tree.map(lambda leaf: leaf.sharding, like))
    per_group = jax.tree.leaves(like[0])[0].shape[0]
    return _converter(tuple(lanes), len(like), per_group, structure, tuple(shardings))(states)


@functools.lru_cache(maxsize=256)
def _converter(lanes: tuple, num_groups: int, per_group: int, structure: Any, shardings: tuple) -> Any:
    """The compiled function of `regroup`."""
    places = num_groups * per_group
    padded = [*lanes, *[None] * (places - len(lanes))]
    filler = [lane for lane in lanes if lane is not None][-1]
    wanted = np.asarray([filler if lane is None else lane for lane in padded])
    fills = np.asarray([lane is None for lane in padded])

    def convert(states: tuple[Any, ...]) -> tuple[Any, ...]:
        whole = jax.tree.map(lambda *groups: jnp.concatenate(groups)[wanted], *states)
        whole["diverged_step"] = jnp.where(fills, 0, whole["diverged_step"])
        return tuple(jax.tree.map(lambda x, i=i: x[i : i + per_group], whole) for i in range(0, places, per_group))

    return jax.jit(convert, out_shardings=jax.tree.unflatten(structure, shardings))


def join(parts: Sequence[tuple[Any, ...] | None], like: tuple[Any, ...], num_lanes: int) -> tuple[Any, ...]:
    """States of a program of several branches, made of those of each branch.

    Args:
      parts: by branch: groups of its lanes, all in one geometry; None for one that is not trained.
      like: groups of ShapeDtypeStructs with shardings of the program.
      num_lanes: of each branch.
    """
    given = [part for part in parts if part is not None]
    each = len(given[0]) * jax.tree.leaves(given[0][0])[0].shape[0]
    offsets = iter(range(0, each * len(given), each))
    lanes: list[int | None] = []
    for part in parts:
        start = None if part is None else next(offsets)
        lanes += [None] * num_lanes if start is None else range(start, start + num_lanes)
    return regroup(tuple(group for part in given for group in part), like, lanes)


def part(states: tuple[Any, ...], like: tuple[Any, ...], branch: int, num_lanes: int) -> tuple[Any, ...]:
    """The lanes of one branch, in the geometry of `like`; a copy."""
    return regroup(states, like, range(branch * num_lanes, (branch + 1) * num_lanes))
