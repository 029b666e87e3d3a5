"""From a pack to its compiled program: the mesh, the model, the layout of the lanes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from scaling_jax.models import Scaling
from scaling_jax.planning import Pack
from scaling_jax.study import Study
from scaling_jax.training import distributed, hardware
from scaling_jax.training.layout import choose_layout
from scaling_jax.training.loop import Training, buffer_steps
from scaling_jax.training.program import LaneProgram, make_mesh


def build_program(
    pack: Pack, training: Training, devices: Sequence[Any], branches: int = 1, init: bool = True
) -> LaneProgram:
    """The pack's program on these devices, compiled.

    Args:
      pack, training: what to train.
      devices: as many as the pack takes.
      branches: that it trains side by side.
      init: whether it will make fresh states; else what makes them is compiled when first used.
    """
    study, feed = pack.settled(training.study), training.feed
    shape = mesh_shape(pack, study, len(devices))
    execution = hardware.resolve_pack(study, pack, feed.spec, shape)
    scaling = scaling_of(study, pack.width, pack.depth)
    model = study.family.build(pack.width, pack.depth, feed.spec, scaling, execution)
    mesh = make_mesh(devices, shape)

    def program(layout: str, steps: int) -> LaneProgram:
        resolved = dataclasses.replace(execution, layout=layout)
        return LaneProgram(model, study, resolved, mesh, pack.lanes, feed, steps, branches, not pack.is_whole)

    layout = choose_layout(execution, pack, study, mesh, training.records, program)
    chosen = program(layout, buffer_steps(pack))
    chosen.compile(init and training.starts is None)
    return chosen


def scaling_of(study: Study, width: int, depth: int) -> Scaling:
    """The study's parametrization at one scale."""
    p = study.parametrization
    return Scaling(p.name, width, p.base_width, study.optimizer.name, depth, p.base_depth)


def mesh_shape(pack: Pack, study: Study, available: int) -> tuple[int, int, int]:
    """Sizes of the (run, data, fsdp) axes of a pack: the study's, else one device per lane as far as they go.

    Several processes must take part with all their devices: what lanes do not fill splits the batch, where it divides.
    """
    if study.execution.mesh:
        return study.execution.mesh
    if distributed.is_single_process():
        return min(len(pack.lanes), available), 1, 1
    for run in range(min(len(pack.lanes), available), 0, -1):
        if available % run == 0 and pack.batch_size % (available // run) == 0:
            return run, available // run, 1
    return available, 1, 1
