"""The CNN against independent references: real parameter counts, XLA's cost analysis, plain definitions."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scaling_jax.models import CNN, Scaling, Spec, convolution
from scaling_jax.study import Execution

DIGITS = Spec("images", 10, 1, (8, 8, 1))


def execution(**changes):
    plain = {"compute_dtype": "float32", "scan_layers": False, "remat": False, "attention": "xla"}
    return Execution(**(plain | changes))


def build(family, width, depth, spec, **changes):
    return family.build(width, depth, spec, Scaling("mup", width, 8), execution(**changes))


def images(spec, batch_size):
    return {
        "image": jax.random.normal(jax.random.key(1), (batch_size, *spec.image_shape)),
        "label": jnp.arange(batch_size) % spec.vocab_size,
    }


def with_head(params):
    """A zero head would hide every difference."""
    return {**params, "head": jax.random.normal(jax.random.key(5), params["head"].shape)}


@pytest.fixture(scope="module")
def started():
    """Parameters of one small model of one stage."""
    return with_head(jax.jit(build(CNN(stages=1), 8, 1, DIGITS).init)(jax.random.key(0)))


@pytest.fixture(scope="module", autouse=True)
def strict_ranks():
    with jax.numpy_rank_promotion("raise"):
        yield


@pytest.mark.parametrize("scan_layers", [False, True])
@pytest.mark.parametrize(
    ("width", "depth", "shape", "options"),
    [
        (8, 1, (28, 28, 1), {}),
        (24, 4, (32, 32, 3), {"stages": 4}),
        (16, 2, (8, 8, 1), {"stages": 1, "group_size": 4}),
        (8, 2, (224, 224, 3), {}),
    ],
)
def test_counts_are_the_real_parameters(width, depth, shape, options, scan_layers):
    family, spec = CNN(**options), Spec("images", 7, 1, shape)
    params = jax.eval_shape(build(family, width, depth, spec, scan_layers=scan_layers).init, jax.random.key(0))
    counts = family.counts(width, depth, spec)
    total = sum(leaf.size for leaf in jax.tree.leaves(params))
    assert counts.params_total == counts.params_matmul == total
    assert counts.params_non_embedding == total - params["head"].size


@pytest.mark.parametrize(("width", "depth", "shape"), [(64, 1, (8, 8, 3)), (128, 2, (7, 9, 1))])
def test_flops_are_those_of_xla(width, depth, shape):
    spec, batch_size, family = Spec("images", 10, 1, shape), 64, CNN(stages=2)
    model = build(family, width, depth, spec)
    params = jax.eval_shape(model.init, jax.random.key(0))
    batch = jax.eval_shape(lambda: images(spec, batch_size))
    gradient = jax.jit(jax.grad(lambda p, b: model.loss(p, b)[0]))
    xla = gradient.lower(params, batch).cost_analysis()["flops"] / batch_size
    assert family.counts(width, depth, spec).flops_per_token == pytest.approx(xla, rel=0.02)


@pytest.mark.parametrize(
    ("size", "kernel", "stride"), [(8, 3, 1), (7, 3, 2), (8, 3, 2), (9, 1, 2), (16, 7, 4), (5, 3, 1)]
)
def test_planes_are_xla_s_convolution(size, kernel, stride):
    x_BxHxWxC = jax.random.normal(jax.random.key(0), (2, size, size + 1, 3))
    w_KxKxCxO = jax.random.normal(jax.random.key(1), (kernel, kernel, 3, 4))

    def scalar(x, w, implementation):
        out = convolution.conv2d(convolution.arrange(x, implementation), w, stride, implementation)
        out = out.transpose(3, 1, 2, 0) if implementation == "planes" else out
        return jnp.sum(out * jnp.cos(jnp.arange(out.size)).reshape(out.shape)), out

    compiled = jax.jit(jax.value_and_grad(scalar, (0, 1), has_aux=True), static_argnums=2)
    actual, desired = (compiled(x_BxHxWxC, w_KxKxCxO, implementation) for implementation in ("planes", "xla"))
    for a, d in zip(jax.tree.leaves(actual), jax.tree.leaves(desired), strict=True):
        np.testing.assert_allclose(a, d, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("implementation", ["xla", "planes"])
def test_group_norm_is_its_definition(implementation):
    rng = np.random.default_rng(0)
    x_BxHxWxC, gain_C, bias_C = rng.normal(3, 2, (2, 5, 4, 6)), rng.normal(size=6), rng.normal(size=6)
    x = convolution.arrange(jnp.float32(x_BxHxWxC), implementation)
    actual = convolution.group_norm(x, jnp.float32(gain_C), jnp.float32(bias_C), 2, implementation)
    actual = actual.transpose(3, 1, 2, 0) if implementation == "planes" else actual
    for b in range(2):
        for group in range(3):
            channels = slice(2 * group, 2 * group + 2)
            x = x_BxHxWxC[b, :, :, channels]
            desired = (x - x.mean()) / np.sqrt(x.var() + 1e-5) * gain_C[channels] + bias_C[channels]
            np.testing.assert_allclose(actual[b, :, :, channels], desired, rtol=1e-4, atol=1e-5)


def test_standardized_weights():
    w_KxKxCxO = 5 + 3 * jax.random.normal(jax.random.key(0), (3, 3, 4, 6))
    out = np.asarray(convolution.standardize(w_KxKxCxO))
    np.testing.assert_allclose(out.mean((0, 1, 2)), 0, atol=1e-6)
    np.testing.assert_allclose(out.std((0, 1, 2)), 1 / math.sqrt(36), rtol=1e-3)


def test_first_loss_is_that_of_a_uniform_guess():
    model = build(CNN(stages=1), 8, 1, DIGITS)
    loss = jax.jit(lambda key: model.loss(model.init(key), images(DIGITS, 4))[0])(jax.random.key(0))
    assert float(loss) == pytest.approx(math.log(10), abs=1e-5)


def test_nothing_depends_on_the_rest_of_the_batch():
    model = build(CNN(stages=2), 8, 1, DIGITS)
    params, batch = with_head(jax.jit(model.init)(jax.random.key(0))), images(DIGITS, 4)
    evaluate = jax.jit(model.evaluate)
    whole = evaluate(params, batch)["loss_sum"]
    alone = [evaluate(params, jax.tree.map(lambda x, i=i: x[i : i + 1], batch))["loss_sum"] for i in range(4)]
    assert float(whole) == pytest.approx(float(sum(alone)), rel=1e-5)


@pytest.mark.slow
def test_execution_changes_no_gradient(monkeypatch):
    """Scanned and rematerialized blocks, and XLA's convolutions, against the plain model."""
    family, batch, depth = CNN(stages=1), images(DIGITS, 4), 3
    plain = build(family, 8, depth, DIGITS)
    params = with_head(jax.jit(plain.init)(jax.random.key(0)))

    def stacked(tree):
        out = {name: value for name, value in tree.items() if "_block" not in name or name.endswith("block0")}
        blocks = [tree[f"stage0_block{i}"] for i in range(1, depth)]
        return {**out, "stage0_blocks": jax.tree.map(lambda *leaves: jnp.stack(leaves), *blocks)}

    def gradient(model, params):
        return jax.jit(jax.value_and_grad(lambda p: model.loss(p, batch)[0]))(params)

    loss, desired = gradient(plain, params)
    monkeypatch.setattr(convolution, "pick", lambda backend: "xla")
    scanned = build(family, 8, depth, DIGITS, scan_layers=True, remat=True)
    scanned_loss, actual = gradient(scanned, stacked(params))
    assert float(scanned_loss) == pytest.approx(float(loss), rel=1e-5)
    for a, d in zip(jax.tree.leaves(actual), jax.tree.leaves(stacked(desired)), strict=True):
        np.testing.assert_allclose(a, d, rtol=1e-3, atol=1e-4 * float(jnp.max(jnp.abs(d))))


def test_half_precision_keeps_params_and_gradients_in_float32(started):
    batch, params, losses = images(DIGITS, 8), started, []
    for dtype in ("float32", "bfloat16"):
        model = build(CNN(stages=1), 8, 1, DIGITS, compute_dtype=dtype)
        loss, gradient = jax.jit(jax.value_and_grad(lambda p, m=model: m.loss(p, batch)[0]))(params)
        assert {leaf.dtype for leaf in jax.tree.leaves((params, gradient))} == {jnp.dtype("float32")}
        losses.append(float(loss))
    assert losses[0] != losses[1] == pytest.approx(losses[0], rel=2e-2)


def test_smoothing_is_in_the_training_loss_only(started):
    batch, found = images(DIGITS, 4), {}
    for smoothing in (0.0, 0.1):
        model = build(CNN(stages=1, label_smoothing=smoothing), 8, 1, DIGITS)
        sums = jax.jit(model.evaluate)(started, batch)
        found[smoothing] = float(jax.jit(model.loss)(started, batch)[0]), float(sums["loss_sum"]) / 4
    assert found[0.0][1] == found[0.1][1] == pytest.approx(found[0.0][0], rel=1e-6)
    assert found[0.1][0] != pytest.approx(found[0.0][0], rel=1e-3)


def test_activation_bytes_are_about_those_of_xla():
    spec, batch_size, family = Spec("images", 10, 1, (16, 16, 1)), 16, CNN(stages=2)
    model = build(family, 16, 1, spec)
    params = jax.eval_shape(model.init, jax.random.key(0))
    compiled = jax.jit(jax.grad(lambda p, b: model.loss(p, b)[0])).lower(params, images(spec, batch_size)).compile()
    xla = compiled.memory_analysis().temp_size_in_bytes
    assert family.activation_bytes(16, 1, spec, batch_size, execution()) == pytest.approx(xla, rel=0.4)


@pytest.mark.parametrize(("pixels", "stride"), [(8, 1), (28, 1), (63, 1), (64, 2), (96, 2), (224, 4)])
def test_the_stem_brings_images_to_about_32_pixels(pixels, stride):
    assert CNN().stride(Spec("images", 10, 1, (pixels, pixels, 3))) == stride


@pytest.mark.parametrize(
    ("width", "shape", "options", "message"),
    [
        (12, (28, 28, 1), {}, "width 12 is not divisible by group_size 8.*divisor of 12"),
        (8, (3, 3, 1), {}, "3 stages shrink an image of 3x3"),
        (8, (8, 8, 1), {"stem_stride": 4}, "lower family.stages or family.stem_stride"),
    ],
)
def test_scales_that_cannot_be_built(width, shape, options, message):
    with pytest.raises(ValueError, match=message):
        CNN(**options).check(width, 1, Spec("images", 10, 1, shape))


@pytest.mark.parametrize("options", [{"stages": 0}, {"group_size": -1}, {"stem_stride": 0}, {"label_smoothing": 1.0}])
def test_wrong_options_say_the_value(options):
    (name, value), *_ = options.items()
    with pytest.raises(ValueError, match=f"{name} {value}"):
        CNN(**options)
