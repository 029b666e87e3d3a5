"""Initial state and one optimizer step of a lane; whatever differs between lanes is an argument."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from scaling_jax.models import partition
from scaling_jax.models.family import Model
from scaling_jax.study import Optimizer
from scaling_jax.training import optimizers, schedule

SPIKE_DECAY = 0.98  # of the running mean of the gradient norm


def init_state(model: Model, optimizer: Optimizer, seed: Any, init_scale: Any) -> dict[str, Any]:
    """A lane's state before its first step.

    Args:
      model: the scale.
      optimizer: of the study.
      seed: int32 scalar; with the scale's shape it determines the initial parameters.
      init_scale: factor on the initial matrices (the arrays that decay).

    Returns:
      params and opt_state (pytrees), diverged_step (int32, -1 while healthy), norm_mean (running gradient norm).
    """
    params = model.init(jax.random.key(seed))
    params = jax.tree.map(lambda p, matrix: p * init_scale if matrix else p, params, model.decay_mask)
    return state_of(model, optimizer, params)


def state_of(model: Model, optimizer: Optimizer, params: Any) -> dict[str, Any]:
    """`init_state` of given parameters."""
    return {
        "params": params,
        "opt_state": optimizers.init(model, optimizer, params),
        "diverged_step": jnp.int32(-1),
        "norm_mean": jnp.float32(0),
    }


def train_step(
    model: Model,
    optimizer: Optimizer,
    decay_shape: str,
    state: dict[str, Any],
    hparams: dict[str, Any],
    step: Any,
    batch: Any,
    microbatches: int = 1,
    max_loss: float = math.inf,
) -> tuple[dict[str, Any], Any]:
    """One update of one lane, by `optimizers.update` at the schedule's learning rate.

    A lane whose loss or gradient norm is not finite, or whose loss exceeds `max_loss`, is frozen from this step on:
    its state no longer changes, and `diverged_step` records the step.

    Args:
      model: the scale.
      optimizer: of the study.
      decay_shape: "linear" or "cosine", how the learning rate decays.
      state: from `init_state` or the step before.
      hparams: scalars of the lane, see `schedule.learning_rate`; also weight_decay, and b2 where it is swept.
      step: int scalar, 0-based.
      batch: of the model.
      microbatches: parts of the batch whose gradients are accumulated.
      max_loss: a larger loss is divergence.

    Returns:
      (state, mean training loss of the batch before the update).
    """

    import optax  # planning does without

    def loss_of(params: Any, part: Any) -> Any:
        return model.loss(params, part)[0]

    loss, grads = accumulate(jax.value_and_grad(loss_of), state["params"], batch, microbatches)
    norm = optax.tree.norm(grads)
    learning_rate = schedule.learning_rate(step, hparams, decay_shape)

    params, opt_state = optimizers.update(
        model, optimizer, grads, state["opt_state"], state["params"], learning_rate, hparams["weight_decay"],
        hparams.get("b2"),
    )  # fmt: skip
    healthy = (state["diverged_step"] < 0) & jnp.isfinite(loss) & jnp.isfinite(norm) & (loss <= max_loss)
    apply, norm_mean = healthy, state["norm_mean"]
    if optimizer.spike_policy == "skip":
        apply &= (norm_mean == 0) | (norm <= optimizer.spike_factor * norm_mean)
        mean = jnp.where(norm_mean == 0, norm, SPIKE_DECAY * norm_mean + (1 - SPIKE_DECAY) * norm)
        norm_mean = jnp.where(apply, mean, norm_mean)

    def keep(new: Any, old: Any) -> Any:
        return jax.tree.map(lambda n, o: jnp.where(apply, n, o), new, old)

    first_bad = jnp.where(state["diverged_step"] < 0, jnp.asarray(step, jnp.int32), state["diverged_step"])
    new_state = {
        "params": keep(params, state["params"]),
        "opt_state": keep(opt_state, state["opt_state"]),
        "diverged_step": jnp.where(healthy, jnp.int32(-1), first_bad),
        "norm_mean": norm_mean,
    }
    return new_state, loss


def accumulate(
    value_and_grad: Callable[[Any, Any], tuple[Any, Any]], params: Any, batch: Any, microbatches: int
) -> tuple[Any, Any]:
    """(mean loss, mean gradient) of a batch taken in `microbatches` equal parts, one after another."""
    if microbatches == 1:
        return value_and_grad(params, batch)
    # Every microbatches-th row: each device's rows stay its own where the batch is split over devices.
    parts = jax.tree.map(lambda x: x.reshape(-1, microbatches, *x.shape[1:]).swapaxes(0, 1), batch)

    def body(total, part):
        part = jax.tree.map(partition.split_batch, part)
        return jax.tree.map(jnp.add, total, value_and_grad(params, part)), None

    zero = (jnp.float32(0), jax.tree.map(jnp.zeros_like, params))
    total, _ = jax.lax.scan(body, zero, parts)
    return jax.tree.map(lambda x: x / microbatches, total)
