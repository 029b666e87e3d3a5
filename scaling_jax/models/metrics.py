"""Evaluation metrics by name: sums over the batches of the validation set, and a number from the sums.

Every metric of a kind of data becomes a column of the results table, which `fit.metric` can name. One of your own:

    from scaling_jax.models import metrics

    metrics.register(
        "top2_accuracy",
        inputs="images",
        sums=lambda logits_RxK, labels_R: {"top2": jnp.sum(jax.lax.top_k(logits_RxK, 2)[1] == labels_R[:, None])},
        value=lambda sums: sums["top2"] / sums["count"],
    )

Metrics change no loss, so runs that are finished keep their rows as they are.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

CALIBRATION_BINS = 15


@dataclasses.dataclass(frozen=True)
class Metric:
    """One metric.

    Attributes:
      name: its column in the results table.
      inputs: the `Spec.kind` it is for, "images" or "tokens".
      sums: (logits [R, K], labels int32 [R]) -> arrays by name, which are added up over the validation set; traced.
        Metrics that give the same name share the sum.
      value: all sums of the validation set as NumPy, with `loss_sum` and `count`, -> the metric.
      higher_is_better: True for an accuracy.
    """

    name: str
    inputs: str
    sums: Callable[[Any, Any], dict[str, Any]]
    value: Callable[[Mapping[str, Any]], float]
    higher_is_better: bool = True


METRICS: dict[tuple[str, str], Metric] = {}


def register(
    name: str,
    *,
    inputs: str,
    sums: Callable[[Any, Any], dict[str, Any]],
    value: Callable[[Mapping[str, Any]], float],
    higher_is_better: bool = True,
) -> Metric:
    """Adds a metric, see `Metric`; one of the same name and inputs is replaced.

    Raises:
      ValueError: a name that is not an identifier, or that other columns have.
    """
    if not name.isidentifier() or name in ("loss", "status", "run_id", "seed", "tokens", "flops"):
        raise ValueError(f"metric {name!r}: choose an identifier that no other column of the results table has")
    METRICS[inputs, name] = Metric(name, inputs, sums, value, higher_is_better)
    return METRICS[inputs, name]


def of(inputs: str) -> tuple[Metric, ...]:
    """Metrics for this kind of data, in the order of their registration."""
    return tuple(metric for metric in METRICS.values() if metric.inputs == inputs)


def sums_of(inputs: str, logits_RxK: Any, labels_R: Any) -> dict[str, Any]:
    """The sums that the metrics of this kind need, each computed once."""
    out: dict[str, Any] = {}
    for metric in of(inputs):
        out |= {key: x for key, x in metric.sums(logits_RxK, labels_R).items() if key not in out}
    return out


def values(inputs: str, sums: Mapping[str, Any]) -> dict[str, float]:
    """`Model.metrics` of a family: `loss` (nats per token or sample) and every registered metric."""
    loss = float(sums["loss_sum"]) / float(sums["count"])
    return {"loss": loss} | {metric.name: float(metric.value(sums)) for metric in of(inputs)}


def _confusion(logits_RxK: Any, labels_R: Any) -> dict[str, Any]:
    """Counts by (label, prediction)."""
    K = logits_RxK.shape[-1]
    return {"confusion": jnp.zeros((K, K), jnp.int32).at[labels_R, jnp.argmax(logits_RxK, -1)].add(1)}


def _accuracy(sums: Mapping[str, Any]) -> float:
    return float(np.trace(np.asarray(sums["confusion"], np.float64)) / float(sums["count"]))


def _mean_share(hits_K: Any, of_K: Any) -> float:
    """Mean of hits / of over the classes where that is something."""
    return float(np.mean(hits_K[of_K > 0] / of_K[of_K > 0]))


def _macro_f1(sums: Mapping[str, Any]) -> float:
    """Mean over classes of 2 tp / (2 tp + fp + fn), without classes that are neither present nor predicted."""
    confusion_KxK = np.asarray(sums["confusion"], np.float64)
    return _mean_share(2 * np.diag(confusion_KxK), confusion_KxK.sum(0) + confusion_KxK.sum(1))


def _macro_precision(sums: Mapping[str, Any]) -> float:
    """Mean over the predicted classes of tp / (tp + fp)."""
    confusion_KxK = np.asarray(sums["confusion"], np.float64)
    return _mean_share(np.diag(confusion_KxK), confusion_KxK.sum(0))


def _macro_recall(sums: Mapping[str, Any]) -> float:
    """Mean over the classes present of tp / (tp + fn)."""
    confusion_KxK = np.asarray(sums["confusion"], np.float64)
    return _mean_share(np.diag(confusion_KxK), confusion_KxK.sum(1))


def _calibration(logits_RxK: Any, labels_R: Any) -> dict[str, Any]:
    """By bins of the largest probability: its sum and the number of correct predictions."""
    probability_RxK = jax.nn.softmax(logits_RxK.astype(jnp.float32), axis=-1)
    top_R = jnp.max(probability_RxK, axis=-1)
    bin_R = jnp.clip((top_R * CALIBRATION_BINS).astype(jnp.int32), 0, CALIBRATION_BINS - 1)
    right_R = hits(logits_RxK, labels_R).astype(jnp.float32)
    sums_2xQ = jnp.zeros((2, CALIBRATION_BINS)).at[:, bin_R].add(jnp.stack([top_R, right_R]))
    return {"calibration": sums_2xQ}


def _calibration_error(sums: Mapping[str, Any]) -> float:
    """Expected calibration error over equal bins: sum of |correct - probability| / count (Guo et al. 2017,
    arXiv:1706.04599)."""
    probability_Q, right_Q = np.asarray(sums["calibration"], np.float64)
    return float(np.abs(right_Q - probability_Q).sum() / float(sums["count"]))


def hits(logits_RxK: Any, labels_R: Any) -> Any:
    """argmax(logits) == labels, bool [R]; XLA:CPU's argmax takes three times as long."""
    label_Rx1, place_1xK = labels_R[:, None], jnp.arange(logits_RxK.shape[-1])[None]
    picked_Rx1 = jnp.take_along_axis(logits_RxK, label_Rx1, axis=-1)
    behind_RxK = (logits_RxK < picked_Rx1) | ((logits_RxK == picked_Rx1) & (place_1xK >= label_Rx1))
    return jnp.all(behind_RxK, axis=-1)


def _right_tokens(logits_RxV: Any, targets_R: Any) -> dict[str, Any]:
    return {"right": jnp.sum(hits(logits_RxV, targets_R))}


register("accuracy", inputs="images", sums=_confusion, value=_accuracy)
register("error", inputs="images", sums=_confusion, value=lambda sums: 1 - _accuracy(sums), higher_is_better=False)
register("macro_f1", inputs="images", sums=_confusion, value=_macro_f1)
register("macro_precision", inputs="images", sums=_confusion, value=_macro_precision)
register("macro_recall", inputs="images", sums=_confusion, value=_macro_recall)
register("calibration_error", inputs="images", sums=_calibration, value=_calibration_error, higher_is_better=False)
register(
    "token_accuracy",
    inputs="tokens",
    sums=_right_tokens,
    value=lambda sums: float(sums["right"]) / float(sums["count"]),
)
