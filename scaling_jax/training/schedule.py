"""The learning rate at a step, as a function of traced numbers: trunks, branches and budgets share one program."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp


def learning_rate(step: Any, hparams: Mapping[str, Any], decay: str) -> Any:
    """Learning rate of the update made at `step` (0-based).

    Linear warm-up from 0 reaches the peak at update `warmup_steps`. Over the k = decay_stop - decay_start steps of a
    decay, "linear" is the share of the decay that is left before the update, so the last update is made at
    (1 - final) / k + final of the peak, never at exactly 0; "cosine" is the half cosine (arXiv:1608.03983) at the
    same points.

    Args:
      step: int scalar.
      hparams: scalars learning_rate, warmup_steps, decay_start, decay_stop, final_fraction.
      decay: "linear" or "cosine", static.
    """
    step = jnp.asarray(step, jnp.float32)
    start, stop = (jnp.asarray(hparams[k], jnp.float32) for k in ("decay_start", "decay_stop"))
    warm = jnp.minimum(1.0, (step + 1) / jnp.maximum(hparams["warmup_steps"], 1))
    left = jnp.clip((stop - step) / jnp.maximum(stop - start, 1.0), 0.0, 1.0)
    left = jnp.where(step < start, 1.0, left)
    if decay == "cosine":
        left = 0.5 * (1 - jnp.cos(jnp.pi * left))
    final = hparams["final_fraction"]
    return hparams["learning_rate"] * warm * (final + (1 - final) * left)
