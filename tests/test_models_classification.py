"""Losses and metrics of classifiers against loops and closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scaling_jax.models import classification


def test_smoothed_cross_entropy_is_its_definition():
    logits_BxK = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    label_B = np.array([0, 3, 2, 2, 1])
    actual_B = classification.cross_entropy(jnp.asarray(logits_BxK), jnp.asarray(label_B), smoothing=0.2)
    for i in range(5):
        p_K = np.exp(logits_BxK[i].astype(np.float64))
        p_K /= p_K.sum()
        q_K = np.full(4, 0.2 / 4)
        q_K[label_B[i]] += 0.8
        assert float(actual_B[i]) == pytest.approx(-np.sum(q_K * np.log(p_K)), rel=1e-5)


def loop_macro_f1(labels, predictions):
    scores = []
    for k in sorted({*labels, *predictions}):
        tp = sum(y == k and p == k for y, p in zip(labels, predictions))
        precision = tp / max(1, sum(p == k for p in predictions))
        recall = tp / max(1, sum(y == k for y in labels))
        scores.append(2 * precision * recall / (precision + recall) if tp else 0.0)
    return sum(scores) / len(scores)


def test_metrics_are_over_the_whole_set():
    """Two unequal batches, a class that never occurs (5) and one that is only predicted (4)."""
    rng = np.random.default_rng(1)
    label_N = rng.integers(0, 4, 40)
    logits_NxK = rng.normal(size=(40, 6)).astype(np.float32)
    logits_NxK[:, 5] = -9
    functions = classification.functions(lambda params, image: image, smoothing=0.3)
    parts = [slice(0, 25), slice(25, 40)]
    sums = [functions["evaluate"]({}, {"image": logits_NxK[s], "label": jnp.asarray(label_N[s])}) for s in parts]
    found = functions["metrics"](jax.tree.map(lambda a, b: np.asarray(a + b), *sums))

    prediction_N = logits_NxK.argmax(1)
    log_p_NxK = np.asarray(jax.nn.log_softmax(logits_NxK))
    assert set(prediction_N) == {0, 1, 2, 3, 4}
    assert found["macro_f1"] == pytest.approx(loop_macro_f1(label_N.tolist(), prediction_N.tolist()), rel=1e-9)
    assert found["accuracy"] == pytest.approx(np.mean(label_N == prediction_N), rel=1e-9)
    assert found["error"] == pytest.approx(1 - found["accuracy"], rel=1e-9)
    # Smoothing is for training only.
    assert found["loss"] == pytest.approx(-log_p_NxK[np.arange(40), label_N].mean(), rel=1e-5)
