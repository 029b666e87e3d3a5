"""A finished run as a row of the results table."""

from __future__ import annotations

import math
from typing import Any

import jax
import numpy as np

from scaling_jax.data import batches
from scaling_jax.planning import Pack
from scaling_jax.storage.records import DIVERGED, DONE
from scaling_jax.training.program import LaneProgram


def result_row(
    pack: Pack, program: LaneProgram, lane: int, budget: int, sums: Any, diverged_step: int, wall: float
) -> dict[str, Any]:
    """What differs between the runs of a study.

    Args:
      pack, lane, budget: which run.
      program: that trained it.
      sums: of its evaluation.
      diverged_step: where it diverged; negative while healthy.
      wall: seconds that it took.
    """
    run, hparams = pack.run(lane, budget), pack.lanes[lane]
    dataset, kind = program.feed.dataset, program.feed.spec.kind
    metrics = program.model.metrics(sums)
    healthy = diverged_step < 0 and np.isfinite(metrics["loss"])
    if not healthy:
        metrics = dict.fromkeys(metrics)
    row = {
        **pack.settings(run),
        "status": DONE if healthy else DIVERGED,
        **metrics,
        "wall_s": round(wall, 3),
        "layout": program.execution.layout,
        "compute_dtype": program.execution.compute_dtype,
        "tokens_per_s": round(run.tokens / wall) if wall > 0 else None,
        **_resources(program),
        "unique_tokens": dataset.unique_tokens,
        "epochs": batches.epochs(run.steps, pack.batch_size, dataset.num_train_windows),
        "diverged_step": diverged_step if not healthy else None,
    }
    if hparams.start is not None:
        row |= {"pretrain_tokens": hparams.start.tokens, "start_run_id": hparams.start.run_id}
    if healthy and kind == "tokens":
        row["bits_per_byte"] = float(metrics["loss"] / np.log(2.0) / dataset.bytes_per_token)
        if (unigram := dataset.info.get("unigram_nats")) is not None:
            row["unigram_normalized"] = metrics["loss"] - unigram
    return row


def _resources(program: LaneProgram) -> dict[str, Any]:
    """What the program takes: devices, peak bytes of one of them without the data set, bytes of a lane's state."""
    data, state = program.arrays["train"], jax.tree.leaves(program.state_shapes)
    peak = program.trainer.peak_bytes
    return {
        "devices": program.mesh.size,
        "memory_bytes": None if peak is None else peak - sum(leaf.nbytes for leaf in jax.tree.leaves(data)),
        "checkpoint_bytes": sum(math.prod(x.shape) * x.dtype.itemsize for x in state) // len(program.groups[0]),
        "compile_s": round(program.trainer.seconds, 3),
    }
