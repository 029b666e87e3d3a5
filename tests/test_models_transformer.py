"""The transformer against independent references: real parameter counts, XLA's cost analysis, plain formulas."""

import dataclasses
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scaling_jax.models import Scaling, Spec, Transformer, transformer
from scaling_jax.study import Execution

SPEC = Spec("tokens", vocab_size=61, context=12)
FAMILY = Transformer(head_dim=8)


def execution(**changes):
    plain = {"compute_dtype": "float32", "scan_layers": False, "remat": False, "attention": "xla"}
    return Execution(**(plain | changes))


def build(width=32, depth=2, family=FAMILY, spec=SPEC, **changes):
    return family.build(width, depth, spec, Scaling("mup", width, 16), execution(**changes))


@pytest.fixture(scope="module", autouse=True)
def strict_ranks():
    with jax.numpy_rank_promotion("raise"):
        yield


@pytest.fixture(scope="module")
def batch():
    return jax.random.randint(jax.random.key(1), (3, SPEC.context + 1), 0, SPEC.vocab_size)


@pytest.fixture(scope="module")
def trained_params():
    """Parameters away from the start, where a zero head would hide every difference."""
    params = jax.jit(build().init)(jax.random.key(0))
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(2), len(leaves))
    shift = jax.jit(lambda p, k: p + 0.1 * jax.random.normal(k, p.shape))
    return tree.unflatten([shift(p, k) for k, p in zip(keys, leaves)])


@pytest.fixture(scope="module")
def reference(trained_params, batch):
    return loss_and_gradient(build(), trained_params, batch)


def loss_and_gradient(model, params, batch):
    return jax.jit(jax.value_and_grad(lambda p: model.loss(p, batch)[0]))(params)


def assert_close(actual, desired, rtol):
    for a, d in zip(jax.tree.leaves(actual), jax.tree.leaves(desired), strict=True):
        np.testing.assert_allclose(a, d, rtol=rtol, atol=rtol * float(jnp.max(jnp.abs(d))))


def stacked(params):
    """Parameters of the unrolled model as the scanned one holds them."""
    depth = sum(name.startswith("layer_") for name in params)
    rest = {name: value for name, value in params.items() if not name.startswith("layer_")}
    layers = [params[f"layer_{i}"] for i in range(depth)]
    return {**rest, "layers": jax.tree.map(lambda *leaves: jnp.stack(leaves), *layers)}


@pytest.mark.parametrize("scan_layers", [False, True])
@pytest.mark.parametrize(("width", "depth", "head_dim", "mlp_ratio"), [(16, 1, 8, 4), (64, 3, 32, 4), (96, 9, 16, 2)])
def test_counts_are_the_real_parameters(width, depth, head_dim, mlp_ratio, scan_layers):
    family = Transformer(head_dim=head_dim, mlp_ratio=mlp_ratio)
    params = jax.eval_shape(build(width, depth, family, scan_layers=scan_layers).init, jax.random.key(0))
    counts = family.counts(width, depth, SPEC)
    total = sum(leaf.size for leaf in jax.tree.leaves(params))
    assert counts.params_total == total
    assert counts.params_non_embedding == total - params["embed"].size - params["head"].size
    assert counts.params_matmul == total - params["embed"].size
    assert counts.flops_6nd_per_token == 6 * counts.params_matmul


@pytest.mark.parametrize(("width", "context"), [(256, 64), (512, 256)])
def test_flops_are_those_of_xla(width, context):
    spec, batch_size = Spec("tokens", 256, context), 2
    family = Transformer(head_dim=32)
    model = build(width, 2, family, spec)
    params = jax.eval_shape(model.init, jax.random.key(0))
    tokens = jax.ShapeDtypeStruct((batch_size, context + 1), jnp.int32)
    gradient = jax.jit(jax.grad(lambda p, b: model.loss(p, b)[0]))
    xla = gradient.lower(params, tokens).cost_analysis()["flops"] / (batch_size * context)
    assert family.counts(width, 2, spec, causal=False).flops_per_token == pytest.approx(xla, rel=0.02)


def test_causal_flops_count_each_query_s_own_keys():
    spec = Spec("tokens", 256, 5)
    causal, full = (FAMILY.counts(32, 3, spec, causal=c).flops_per_token for c in (True, False))
    pairs = sum(t + 1 for t in range(5)) / 5
    # Scores and weighted sum, 2 FLOPs per multiply-add, forward and twice backward.
    assert full - causal == pytest.approx(3 * 3 * 2 * 2 * (5 - pairs) * 32)


def test_first_loss_is_that_of_a_uniform_guess(batch):
    model = build(16, 1)
    loss = jax.jit(lambda key: model.loss(model.init(key), batch)[0])(jax.random.key(0))
    assert float(loss) == pytest.approx(math.log(SPEC.vocab_size), abs=1e-5)


def test_evaluate_sums_what_loss_averages(trained_params, batch, reference):
    model = build()
    sums = jax.jit(model.evaluate)(trained_params, batch)
    assert int(sums["count"]) == 3 * SPEC.context
    assert model.metrics(jax.tree.map(np.asarray, sums))["loss"] == pytest.approx(float(reference[0]), rel=1e-6)


@pytest.mark.parametrize("remat", [False, True])
def test_scanned_layers_are_the_unrolled_ones(remat, trained_params, batch, reference):
    loss, gradient = loss_and_gradient(build(scan_layers=True, remat=remat), stacked(trained_params), batch)
    assert_close((loss, gradient), (reference[0], stacked(reference[1])), 1e-5)


def test_execution_changes_no_gradient(trained_params, batch, reference):
    """Rematerialised layers, and blocked attention as its gradients reach the parameters."""
    model = build(remat=True, attention="blocked")
    assert_close(loss_and_gradient(model, trained_params, batch), reference, 1e-5)


def test_half_precision_keeps_params_and_gradients_in_float32(trained_params, batch, reference):
    model = build(compute_dtype="bfloat16")
    loss, gradient = loss_and_gradient(model, trained_params, batch)
    dtypes = {leaf.dtype for leaf in jax.tree.leaves((jax.eval_shape(model.init, jax.random.key(0)), gradient, loss))}
    assert dtypes == {jnp.dtype("float32")}
    assert float(loss) == pytest.approx(float(reference[0]), rel=5e-3)
    assert float(loss) != float(reference[0])  # it did compute in half precision


def test_chunked_cross_entropy_is_the_plain_one(monkeypatch):
    x_BxTxM, head_MxV = jax.random.normal(jax.random.key(0), (2, 9, 8)), jax.random.normal(jax.random.key(1), (8, 37))
    target_BxT = jax.random.randint(jax.random.key(2), (2, 9), 0, 37)

    def plain(x_BxTxM, head_MxV):
        log_p_BxTxV = jax.nn.log_softmax(x_BxTxM @ head_MxV)
        return -jnp.sum(log_p_BxTxV * jax.nn.one_hot(target_BxT, 37))

    def ours(x_BxTxM, head_MxV):
        return transformer.summed_cross_entropy(x_BxTxM, head_MxV, target_BxT)

    monkeypatch.setattr(transformer, "LOGITS_CHUNK_BYTES", 4 * 37 * 4)  # 2 x 9 rows in chunks of 2
    assert transformer._num_chunks(x_BxTxM, head_MxV) == 9
    actual, desired = (jax.jit(jax.value_and_grad(f, (0, 1)))(x_BxTxM, head_MxV) for f in (ours, plain))
    assert_close(actual, desired, 1e-5)


@pytest.mark.parametrize(("depth", "remat"), [(2, False), (8, True)])
def test_activation_bytes_are_about_those_of_xla(depth, remat):
    width, spec, batch_size = 256, Spec("tokens", 256, 512), 4
    changes = {"scan_layers": remat, "remat": remat, "attention": "blocked"}
    family = Transformer(head_dim=32)
    model = build(width, depth, family, spec, **changes)
    params = jax.eval_shape(model.init, jax.random.key(0))
    tokens = jax.ShapeDtypeStruct((batch_size, spec.context + 1), jnp.int32)
    gradient = jax.jit(jax.grad(lambda p, b: model.loss(p, b)[0]))
    xla = gradient.lower(params, tokens).compile().memory_analysis().temp_size_in_bytes
    assert family.activation_bytes(width, depth, spec, batch_size, execution(**changes)) == pytest.approx(xla, rel=0.2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"activation": "tanh"}, "'tanh'.*relu2"),
        ({"head_dim": 7}, "head_dim 7"),
        ({"mlp_ratio": 0}, "mlp_ratio 0"),
        ({"short_conv": -1}, "short_conv -1"),
    ],
)
def test_wrong_options_say_the_value(options, message):
    with pytest.raises(ValueError, match=message):
        Transformer(**options)


def test_width_that_heads_do_not_divide():
    with pytest.raises(ValueError, match=r"width 36 is not divisible by head_dim 8.*divisor of 36"):
        FAMILY.check(36, 2, SPEC)


CONVOLVED = dataclasses.replace(FAMILY, short_conv=3)


def test_short_convolution_is_a_causal_filter_per_channel():
    rng = np.random.default_rng(0)
    x_BxTxC, w_KxC = rng.normal(size=(2, 6, 5)), rng.normal(size=(3, 5))
    wanted = np.zeros_like(x_BxTxC)
    for b, c in itertools.product(range(2), range(5)):
        wanted[b, :, c] = np.convolve(x_BxTxC[b, :, c], w_KxC[:, c])[:6]
    np.testing.assert_allclose(transformer.short_convolution(jnp.asarray(x_BxTxC), w_KxC), wanted, rtol=1e-5, atol=1e-6)
    short = transformer.short_convolution(jnp.asarray(x_BxTxC[:, :1]), w_KxC)  # fewer tokens than taps
    np.testing.assert_allclose(short, x_BxTxC[:, :1] * w_KxC[None, :1], rtol=1e-5)


def test_short_convolution_is_the_identity_at_the_start(batch, trained_params, reference):
    model = build(family=CONVOLVED)
    taps = jax.jit(model.init)(jax.random.key(0))["layer_1"]["qkv_taps"]
    np.testing.assert_array_equal(taps, np.eye(3)[:, :1] * np.ones(3 * 32))
    params = {k: v | {"qkv_taps": taps} if k.startswith("layer_") else v for k, v in trained_params.items()}
    assert float(jax.jit(model.loss)(params, batch)[0]) == pytest.approx(float(reference[0]), rel=1e-6)
    gradient = jax.jit(jax.grad(lambda p: model.loss(p, batch)[0]))(params)["layer_0"]["qkv_taps"]
    assert (jnp.abs(gradient).max(axis=1) > 1e-6).all()  # every tap learns


def test_short_convolution_sees_no_later_token(trained_params, monkeypatch):
    model = build(family=CONVOLVED)
    rows = jax.random.normal(jax.random.key(5), (3, 3 * 32))
    params = {k: v | {"qkv_taps": rows} if k.startswith("layer_") else v for k, v in trained_params.items()}
    monkeypatch.setattr(transformer, "summed_scores", lambda x_BxTxM, head_MxV, _: {"loss_sum": x_BxTxM @ head_MxV})
    logits_of = jax.jit(lambda batch: model.evaluate(params, batch)["loss_sum"])
    batch = jax.random.randint(jax.random.key(1), (1, SPEC.context + 1), 0, SPEC.vocab_size)
    changed = batch.at[0, 5].set((batch[0, 5] + 1) % SPEC.vocab_size)
    moved_T = jnp.abs(logits_of(batch) - logits_of(changed)).max(axis=(0, 2))
    assert (moved_T[:5] == 0).all()
    assert (moved_T[5:8] > 1e-4).all()


@pytest.mark.parametrize("scan_layers", [False, True])
def test_short_convolution_is_counted(scan_layers):
    model = build(32, 3, CONVOLVED, scan_layers=scan_layers)
    params = jax.eval_shape(model.init, jax.random.key(0))
    with_it, without = CONVOLVED.counts(32, 3, SPEC), FAMILY.counts(32, 3, SPEC)
    assert with_it.params_total == sum(leaf.size for leaf in jax.tree.leaves(params))
    assert with_it.params_non_embedding - without.params_non_embedding == 3 * 3 * 3 * 32  # layers, taps, channels
    # A multiply-add per tap and channel of q, k and v, forward and twice backward.
    assert with_it.flops_per_token - without.flops_per_token == 3 * 3 * (2 * 3 * 3 * 32)
    taps = model.roles["layers" if scan_layers else "layer_0"]["qkv_taps"]
    assert taps == "vector"


def test_scanned_layers_with_a_short_convolution_are_the_unrolled_ones(trained_params, batch):
    rows = jax.random.normal(jax.random.key(5), (3, 3 * 32))
    params = {k: v | {"qkv_taps": rows} if k.startswith("layer_") else v for k, v in trained_params.items()}
    loss, gradient = loss_and_gradient(build(family=CONVOLVED), params, batch)
    scanned = loss_and_gradient(build(family=CONVOLVED, scan_layers=True, remat=True), stacked(params), batch)
    assert_close(scanned, (loss, stacked(gradient)), 1e-5)
