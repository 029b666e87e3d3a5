"""A scale of a study before its program: the parametrization, and the devices that it takes."""

from __future__ import annotations

from scaling_jax.models import Scaling
from scaling_jax.planning import Pack
from scaling_jax.study import Study
from scaling_jax.training import distributed


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
