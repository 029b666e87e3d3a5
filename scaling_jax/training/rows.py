"""A finished run as a row of the results table."""

from __future__ import annotations

from typing import Any

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
    run = pack.run(lane, budget)
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
        "unique_tokens": dataset.unique_tokens,
        "epochs": batches.epochs(run.steps, pack.batch_size, dataset.num_train_windows),
        "diverged_step": diverged_step if not healthy else None,
    }
    if healthy and kind == "tokens":
        row["bits_per_byte"] = float(metrics["loss"] / np.log(2.0) / dataset.bytes_per_token)
        if (unigram := dataset.info.get("unigram_nats")) is not None:
            row["unigram_normalized"] = metrics["loss"] - unigram
    return row
