"""Constraints by which a model tells the partitioner how to split its batch.

Where no mesh with `data` and `fsdp` axes is in context (one device per lane, or a model used by itself) these functions
change nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax

P = jax.sharding.PartitionSpec
BATCH_AXES = ("data", "fsdp")


def split_batch(x: Any) -> Any:
    """x [B, ...], its batch split over the `data` and `fsdp` axes.

    Applied after every layer; otherwise the partitioner may gather activations where it should gather parameters.
    """
    return jax.lax.with_sharding_constraint(x, P(BATCH_AXES)) if num_parts() > 1 else x


def on_each_part(function: Callable[..., Any], *args: Any, summed: bool = False) -> Any:
    """`function` of each device's part of the batch: for what the partitioner cannot split (kernels) or splits badly.

    Args:
      function: takes arrays [B, ...]; returns [B, ...], or an array that is summed over the parts.
      *args: its arguments; a batch that does not divide is computed whole by every device.
      summed: add the results up.
    """
    if num_parts() == 1:
        return function(*args)
    if len(args[0]) % num_parts():
        inputs, outputs, local = P(), P(), function
    elif summed:
        inputs, outputs, local = P(BATCH_AXES), P(), lambda *parts: jax.lax.psum(function(*parts), BATCH_AXES)
    else:
        inputs, outputs, local = P(BATCH_AXES), P(BATCH_AXES), function
    return jax.shard_map(local, in_specs=inputs, out_specs=outputs, axis_names=set(BATCH_AXES), check_vma=False)(*args)


def num_parts() -> int:
    """Parts that the batch is split into by the mesh of the context."""
    shape = jax.sharding.get_abstract_mesh().shape
    return math.prod(shape.get(name, 1) for name in BATCH_AXES)
