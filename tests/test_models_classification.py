"""Losses and metrics of classifiers against loops and closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scaling_jax.models import Scaling, Spec, Transformer, classification, metrics
from scaling_jax.study import Execution


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


@pytest.fixture
def registry():
    before = dict(metrics.METRICS)
    yield
    metrics.METRICS.clear()
    metrics.METRICS.update(before)


def test_a_metric_of_the_user_is_a_column_beside_the_others(registry):
    metrics.register(
        "top2",
        inputs="images",
        sums=lambda logits_RxK, labels_R: {"top2": jnp.sum(jax.lax.top_k(logits_RxK, 2)[1] == labels_R[:, None])},
        value=lambda sums: sums["top2"] / sums["count"],
    )
    logits_NxK = np.random.default_rng(1).normal(size=(40, 6)).astype(np.float32)
    label_N = np.arange(40) % 6
    functions = classification.functions(lambda params, image: image, smoothing=0.0)
    sums = functions["evaluate"]({}, {"image": jnp.asarray(logits_NxK), "label": jnp.asarray(label_N)})
    found = functions["metrics"](jax.tree.map(np.asarray, sums))
    best_Nx2 = np.argsort(-logits_NxK, axis=1)[:, :2]
    assert found["top2"] == pytest.approx((best_Nx2 == label_N[:, None]).any(1).mean())
    assert list(found) == ["loss", *(metric.name for metric in metrics.of("images"))] and "top2" in found


@pytest.mark.slow
def test_a_token_metric_sees_every_logit_and_changes_no_loss(registry):
    spec = Spec("tokens", 16, 8)
    execution = Execution(compute_dtype="float32", scan_layers=False, remat=False, attention="xla")
    model = Transformer(head_dim=8).build(8, 1, spec, Scaling("standard", 8, 8), execution)
    params, batch = model.init(jax.random.key(0)), jax.random.randint(jax.random.key(1), (3, 9), 0, 16)
    before = model.metrics(model.evaluate(params, batch))
    metrics.register(
        "mean_logit",
        inputs="tokens",
        sums=lambda logits_RxV, targets_R: {
            "rows": jnp.int32(len(targets_R)),
            "nats": -jnp.sum(jnp.take_along_axis(jax.nn.log_softmax(logits_RxV), targets_R[:, None], axis=1)),
        },
        value=lambda sums: sums["nats"] / sums["rows"],
    )
    after = model.metrics(model.evaluate(params, batch))
    assert after["loss"] == before["loss"]
    assert after["mean_logit"] == pytest.approx(after["loss"], rel=1e-5)
    assert set(before) == {"loss", "token_accuracy"}


@pytest.mark.parametrize("name", ["loss", "top 2", ""])
def test_names_that_cannot_be_columns(name):
    with pytest.raises(ValueError, match="choose an identifier"):
        metrics.register(name, inputs="images", sums=lambda *_: {}, value=lambda _: 0.0)


def test_hits_are_where_the_argmax_is_the_label():
    logits_RxK = np.random.default_rng(0).integers(0, 4, (64, 6)).astype(np.float32)  # many ties
    logits_RxK[-1] = np.nan
    labels_R = jnp.arange(64) % 6
    expected_R = (np.argmax(logits_RxK, -1) == labels_R) & ~np.isnan(logits_RxK[:, 0])
    assert 5 < expected_R.sum() < 30
    np.testing.assert_array_equal(metrics.hits(jnp.asarray(logits_RxK), labels_R), expected_R)
