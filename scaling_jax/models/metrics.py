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

import jax.numpy as jnp
import numpy as np


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


def _macro_f1(sums: Mapping[str, Any]) -> float:
    """Mean over classes of 2 tp / (2 tp + fp + fn), without classes that are neither present nor predicted."""
    confusion_KxK = np.asarray(sums["confusion"], np.float64)
    hits_K, seen_K = np.diag(confusion_KxK), confusion_KxK.sum(0) + confusion_KxK.sum(1)
    return float(np.mean(2 * hits_K[seen_K > 0] / seen_K[seen_K > 0]))


register("accuracy", inputs="images", sums=_confusion, value=_accuracy)
register("error", inputs="images", sums=_confusion, value=lambda sums: 1 - _accuracy(sums), higher_is_better=False)
register("macro_f1", inputs="images", sums=_confusion, value=_macro_f1)
