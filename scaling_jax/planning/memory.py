"""The memory that a pack takes on a device."""

from __future__ import annotations

import math

from scaling_jax.models import optimizers
from scaling_jax.models.family import Spec
from scaling_jax.planning.pack import Pack
from scaling_jax.study import Study


def memory_bytes(study: Study, pack: Pack, spec: Spec, mesh: tuple[int, int, int], execution) -> int:
    """Estimated peak bytes on one device: a step's, and the states of the trunk that wait while a branch trains.

    Args:
      mesh: sizes of the (run, data, fsdp) axes.
      execution: resolved.
    """
    lanes = math.ceil(len(pack.lanes) / mesh[0])
    return step_bytes(study, pack, spec, mesh, execution) + lanes * _state_bytes(study, pack) // mesh[2]


def step_bytes(study: Study, pack: Pack, spec: Spec, mesh: tuple[int, int, int], execution) -> int:
    """Estimated peak bytes of the compiled step on one device (beside XLA's own in benchmarks/memory.md): states,
    gradients, and activations of the lanes that are live at once (all under vmap, else one)."""
    run, data, fsdp = mesh
    lanes = math.ceil(len(pack.lanes) / run)
    gradients = 4 * pack.counts.params_total * (2 if execution.parts > 1 else 1)  # a part's and their sum
    if execution.compute_dtype == "bfloat16":
        # Half-precision weights; a scan over layers holds all of them, as they are and as the backward pass wants them.
        gradients += (6 if execution.scan_layers else 2) * pack.counts.params_total
    batch = math.ceil(pack.batch_size / (execution.parts * data * fsdp))
    activations = study.family.activation_bytes(pack.width, pack.depth, spec, batch, execution)
    live = lanes if execution.layout == "vmap" else 1
    return int(lanes * _state_bytes(study, pack) // fsdp + live * (gradients // fsdp + activations))


def _state_bytes(study: Study, pack: Pack) -> int:
    """Parameters and the optimizer's state of one lane."""
    counts = pack.counts
    hidden = counts.params_non_embedding  # its vectors are a small share
    state = optimizers.rule(study.optimizer.name).state_size(hidden, counts.params_total - hidden)
    return 4 * (counts.params_total + state)
