"""Applies a registered optimizer to a lane: clipping, its update, the transfer, the decay, the learning rate."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import jax
import jax.numpy as jnp

from scaling_jax.models import optimizers
from scaling_jax.models.family import Model
from scaling_jax.study import Optimizer

if TYPE_CHECKING:
    import optax


def transform(optimizer: Optimizer, model: Model, b2: Any = None) -> optax.GradientTransformation:
    """Clipping and the optimizer's update; rate, transfer and decay are applied in `update`, where they are traced.

    Args:
      optimizer: of the study.
      model: its roles and its factor on epsilon are read.
      b2: in place of the study's: a traced scalar where it is swept.

    Raises:
      UserError: an unknown optimizer or option, or the optimizer needs roles and the model has none.
    """
    import optax

    parts = [optax.clip_by_global_norm(optimizer.clip_norm)] if optimizer.clip_norm else []
    arguments = optimizers.arguments(optimizer, model.roles, model.eps_multiplier)
    if "b2" in optimizers.rule(optimizer.name).fields and not isinstance(optimizer.b2, float):
        arguments["b2"] = 0.0 if b2 is None else b2  # no initial state depends on it
    return optax.chain(*parts, optimizers.rule(optimizer.name).factory(**arguments))


def init(model: Model, optimizer: Optimizer, params: Any) -> Any:
    """The optimizer's state before the first step."""
    inner = transform(optimizer, model)
    if optimizers.rule(optimizer.name).schedule_free:
        import optax

        return optax.contrib.schedule_free(inner, 0.0, optimizer.b1).init(params)
    return inner.init(params)


def update(
    model: Model,
    optimizer: Optimizer,
    grads: Any,
    opt_state: Any,
    params: Any,
    learning_rate: Any,
    weight_decay: Any,
    b2: Any = None,
) -> tuple[Any, Any]:
    """One update: params - learning_rate * (multiplier * direction + weight_decay * params).

    The decay is decoupled and on matrices only; the multiplier is the parametrization's for the array.

    Returns:
      (params, opt_state).
    """
    rule = optimizers.rule(optimizer.name)
    inner = transform(optimizer, model, b2)

    def step(direction: Any, params: Any) -> Any:
        def one(d: Any, p: Any, multiplier: float, matrix: bool) -> Any:
            decay = weight_decay * p if matrix else 0.0
            return learning_rate * (multiplier * (-d if rule.descends else d) + decay)

        return jax.tree.map(one, direction, params, model.lr_multipliers, model.decay_mask)

    if not rule.schedule_free:
        direction, opt_state = inner.update(grads, opt_state, params)
        return jax.tree.map(jnp.subtract, params, step(direction, params)), opt_state

    import optax

    def descend(grads: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        direction, state = inner.update(grads, state, params)
        return jax.tree.map(jnp.negative, step(direction, params)), state

    whole = optax.GradientTransformation(inner.init, cast(Any, descend))
    updates, opt_state = optax.contrib.schedule_free(whole, learning_rate, optimizer.b1).update(
        grads, opt_state, params
    )
    return optax.apply_updates(params, updates), opt_state


def evaluation_params(optimizer: Optimizer, state: Any) -> Any:
    """The parameters that are evaluated: the average of a schedule-free optimizer, else those that are trained.

    Args:
      optimizer: of the study.
      state: a lane's, with `params` and `opt_state`.
    """
    if optimizers.rule(optimizer.name).schedule_free:
        import optax

        return optax.contrib.schedule_free_eval_params(state["opt_state"], state["params"])
    return state["params"]
