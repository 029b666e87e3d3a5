"""What classifiers share: the loss they train on, and the metrics of a validation set from sums over its batches."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def cross_entropy(logits_BxK, label_B, smoothing: float = 0.0):
    """-sum_k q_k ln softmax(logits)_k per example, q = (1 - smoothing) one-hot + smoothing / K, in float32.

    Returns:
      [B], nats (label smoothing: Szegedy et al. 2016, arXiv:1512.00567).
    """
    log_p_BxK = jax.nn.log_softmax(logits_BxK.astype(jnp.float32))
    picked_B = jnp.take_along_axis(log_p_BxK, label_B[:, None], axis=-1)[:, 0]
    return -(1 - smoothing) * picked_B - smoothing * jnp.mean(log_p_BxK, axis=-1)


def functions(logits: Callable[[Any, Any], Any], smoothing: float) -> dict[str, Callable]:
    """`loss`, `evaluate` and `metrics` of a `Model` on batches {"image": [B, H, W, C], "label": int32 [B]}.

    Args:
      logits: (params, image_BxHxWxC) -> [B, K].
      smoothing: of the labels, in the training loss only.
    """

    def loss(params, batch):
        logits_BxK = logits(params, batch["image"])
        nats_B = cross_entropy(logits_BxK, batch["label"], smoothing)
        return jnp.mean(nats_B), {"accuracy": jnp.mean(jnp.argmax(logits_BxK, -1) == batch["label"])}

    def evaluate(params, batch):
        logits_BxK = logits(params, batch["image"])
        K = logits_BxK.shape[-1]
        return {
            "loss_sum": jnp.sum(cross_entropy(logits_BxK, batch["label"])),
            "count": jnp.int32(len(batch["label"])),
            "confusion": jnp.zeros((K, K), jnp.int32).at[batch["label"], jnp.argmax(logits_BxK, -1)].add(1),
        }

    return {"loss": loss, "evaluate": evaluate, "metrics": metrics}


def metrics(sums: Mapping[str, Any]) -> dict[str, float]:
    """`loss` (nats per sample), `accuracy`, `error` (1 - accuracy) and `macro_f1` from `evaluate`'s sums.

    Macro F1 is the mean over classes of 2 tp / (2 tp + fp + fn); classes that are neither present nor predicted are
    left out.
    """
    confusion_KxK = np.asarray(sums["confusion"], np.float64)  # rows: label, columns: prediction
    hits_K, present_K, predicted_K = np.diag(confusion_KxK), confusion_KxK.sum(1), confusion_KxK.sum(0)
    seen_K = present_K + predicted_K > 0
    accuracy = hits_K.sum() / float(sums["count"])
    return {
        "loss": float(sums["loss_sum"]) / float(sums["count"]),
        "accuracy": float(accuracy),
        "error": float(1 - accuracy),
        "macro_f1": float(np.mean(2 * hits_K[seen_K] / (present_K + predicted_K)[seen_K])),
    }
