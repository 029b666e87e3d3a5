"""From a pack to its compiled program: the mesh, the model, the layout of the lanes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from scaling_jax.planning import Pack
from scaling_jax.training import hardware
from scaling_jax.training.layout import choose_layout
from scaling_jax.training.loop import Training, buffer_steps
from scaling_jax.training.program import LaneProgram, make_mesh
from scaling_jax.training.scale import mesh_shape, scaling_of


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
