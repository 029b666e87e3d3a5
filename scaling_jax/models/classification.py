"""The loss that classifiers train on, and their `Model` functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from scaling_jax.models import metrics


def cross_entropy(logits_BxK: Any, label_B: Any, smoothing: float = 0.0) -> Any:
    """-sum_k q_k ln softmax(logits)_k per example, q = (1 - smoothing) one-hot + smoothing / K, in float32.

    Returns:
      [B], nats (label smoothing: Szegedy et al. 2016, arXiv:1512.00567).
    """
    import optax

    logits_BxK = logits_BxK.astype(jnp.float32)
    if not smoothing:
        return optax.softmax_cross_entropy_with_integer_labels(logits_BxK, label_B)
    one_hot_BxK = jax.nn.one_hot(label_B, logits_BxK.shape[-1])
    return optax.softmax_cross_entropy(logits_BxK, optax.smooth_labels(one_hot_BxK, smoothing))


def functions(logits: Callable[[Any, Any], Any], smoothing: float) -> dict[str, Callable[..., Any]]:
    """`loss`, `evaluate`, `metrics` and `logits` of a `Model` on batches {"image": [B, H, W, C], "label": int32 [B]}.

    Args:
      logits: (params, image_BxHxWxC) -> [B, K].
      smoothing: of the labels, in the training loss only.
    """

    def loss(params: Any, batch: Any) -> Any:
        logits_BxK = logits(params, batch["image"])
        nats_B = cross_entropy(logits_BxK, batch["label"], smoothing)
        return jnp.mean(nats_B), {"accuracy": jnp.mean(jnp.argmax(logits_BxK, -1) == batch["label"])}

    def evaluate(params: Any, batch: Any) -> Any:
        logits_BxK = logits(params, batch["image"])
        return {
            "loss_sum": jnp.sum(cross_entropy(logits_BxK, batch["label"])),
            "count": jnp.int32(len(batch["label"])),
            **metrics.sums_of("images", logits_BxK, batch["label"]),
        }

    return {
        "loss": loss,
        "evaluate": evaluate,
        "metrics": lambda sums: metrics.values("images", sums),
        "logits": lambda params, image_BxHxWxC: logits(params, image_BxHxWxC).astype(jnp.float32),
    }
