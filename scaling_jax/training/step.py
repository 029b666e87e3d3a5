"""One optimiser step of one lane, and how its state begins. Everything a lane varies in is an argument."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import optax

from scaling_jax.models import partition
from scaling_jax.models.family import Model
from scaling_jax.study import Optimizer
from scaling_jax.training import schedule

SPIKE_DECAY = 0.98  # of the running mean of the gradient norm


def transform(optimizer: Optimizer) -> optax.GradientTransformation:
    """Clip, then Adam's or momentum's direction; rate and decay are applied in `train_step`, where they are traced."""
    parts = [optax.clip_by_global_norm(optimizer.clip_norm)] if optimizer.clip_norm else []
    if optimizer.name == "adamw":
        parts.append(optax.scale_by_adam(optimizer.b1, optimizer.b2, optimizer.eps))
    else:
        parts.append(optax.trace(optimizer.momentum))
    return optax.chain(*parts)


def init_state(model: Model, optimizer: Optimizer, seed, init_scale) -> dict[str, Any]:
    """A lane's state before its first step.

    Args:
      seed: int32 scalar; with the scale's shape it fixes the initial parameters.
      init_scale: factor on the initial matrices (what decays).

    Returns:
      params and opt_state (pytrees), diverged_step (int32, -1 while healthy), norm_mean (running gradient norm).
    """
    params = model.init(jax.random.key(seed))
    params = jax.tree.map(lambda p, matrix: p * init_scale if matrix else p, params, model.decay_mask)
    return {
        "params": params,
        "opt_state": transform(optimizer).init(params),
        "diverged_step": jnp.int32(-1),
        "norm_mean": jnp.float32(0),
    }


def train_step(
    model: Model,
    optimizer: Optimizer,
    decay_shape: str,
    state: dict,
    hparams: dict,
    step,
    batch,
    microbatches: int = 1,
    max_loss: float = math.inf,
):
    """One update: params -= learning_rate * (multiplier * direction + decay * params).

    A lane whose loss or gradient norm is not finite, or whose loss exceeds `max_loss`, is frozen from this step on:
    its state no longer changes, and `diverged_step` says when.

    Returns:
      (state, mean training loss of the batch before the update).
    """

    def loss_of(params, part):
        return model.loss(params, part)[0]

    loss, grads = accumulate(jax.value_and_grad(loss_of), state["params"], batch, microbatches)
    norm = optax.tree.norm(grads)
    direction, opt_state = transform(optimizer).update(grads, state["opt_state"], state["params"])
    learning_rate = schedule.learning_rate(step, hparams, decay_shape)

    def moved(p, d, multiplier, matrix):
        decay = hparams["weight_decay"] * p if matrix else 0.0
        return p - learning_rate * (multiplier * d + decay)

    params = jax.tree.map(moved, state["params"], direction, model.lr_multipliers, model.decay_mask)

    healthy = (state["diverged_step"] < 0) & jnp.isfinite(loss) & jnp.isfinite(norm) & (loss <= max_loss)
    apply, norm_mean = healthy, state["norm_mean"]
    if optimizer.spike_policy == "skip":
        apply &= (norm_mean == 0) | (norm <= optimizer.spike_factor * norm_mean)
        mean = jnp.where(norm_mean == 0, norm, SPIKE_DECAY * norm_mean + (1 - SPIKE_DECAY) * norm)
        norm_mean = jnp.where(apply, mean, norm_mean)

    def keep(new, old):
        return jax.tree.map(lambda n, o: jnp.where(apply, n, o), new, old)

    first_bad = jnp.where(state["diverged_step"] < 0, jnp.asarray(step, jnp.int32), state["diverged_step"])
    new_state = {
        "params": keep(params, state["params"]),
        "opt_state": keep(opt_state, state["opt_state"]),
        "diverged_step": jnp.where(healthy, jnp.int32(-1), first_bad),
        "norm_mean": norm_mean,
    }
    return new_state, loss


def accumulate(value_and_grad, params, batch, microbatches: int):
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
