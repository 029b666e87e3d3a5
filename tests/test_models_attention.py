"""Attention: nothing leaks from the future, all implementations agree, accelerators' kernels lower."""

import jax
import jax.export  # not part of `import jax`
import jax.numpy as jnp
import numpy as np
import pytest

from scaling_jax.models import Scaling, Spec, Transformer, attention, transformer
from scaling_jax.study import Execution


def qkv(shape, dtype=jnp.float32):
    return [jax.random.normal(key, shape, dtype) for key in jax.random.split(jax.random.key(0), 3)]


@pytest.mark.parametrize("context", [13])
@pytest.mark.parametrize("implementation", ["xla", "blocked"])
def test_no_output_depends_on_later_inputs(implementation, context, monkeypatch):
    """The gradient of output t by the embedding of input u: exactly zero for u > t, not zero for u <= t."""
    spec = Spec("tokens", context + 1, context)
    execution = Execution(compute_dtype="float32", scan_layers=False, remat=False, attention=implementation)
    model = Transformer(head_dim=8).build(16, 2, spec, Scaling("mup", 16, 16), execution)
    params = jax.jit(model.init)(jax.random.key(0))
    probe_M = jax.random.normal(jax.random.key(1), (16,))
    # The loss adds all positions up; here each position's own output comes out instead.
    monkeypatch.setattr(transformer, "summed_scores", lambda x_BxTxM, head, _: {"loss_sum": x_BxTxM[0] @ probe_M})
    # Every token stands once, so a row of the embedding is one input.
    tokens_1xT1 = jnp.arange(context + 1)[None]

    def outputs(embed_VxM):
        return model.evaluate({**params, "embed": embed_VxM}, tokens_1xT1)["loss_sum"]

    size_TxU = np.abs(jax.jit(jax.jacrev(outputs))(params["embed"])).sum(-1)[:, :context]
    later_TxU = np.triu(np.ones((context, context), bool), 1)
    assert np.all(size_TxU[later_TxU] == 0)
    assert np.all(size_TxU[~later_TxU] > 1e-7)


@pytest.mark.parametrize("context", [3, 13])
def test_blocked_is_xla_s(context):
    inputs = qkv((2, context, 3, 8))

    def scalar(q, k, v, implementation):
        out = attention.causal_attention(q, k, v, implementation)
        return jnp.sum(out * jnp.cos(jnp.arange(out.size)).reshape(out.shape)), out

    compiled = jax.jit(jax.value_and_grad(scalar, (0, 1, 2), has_aux=True), static_argnums=3)
    actual, desired = (compiled(*inputs, implementation) for implementation in ("blocked", "xla"))
    for a, d in zip(jax.tree.leaves(actual), jax.tree.leaves(desired), strict=True):
        np.testing.assert_allclose(a, d, rtol=1e-5, atol=1e-5)


def test_splash_is_xla_s(monkeypatch):
    """The TPU kernel in interpreter mode, its scaling and head order included."""
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernel
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    def interpreted(num_heads, context):
        mask = masks.MultiHeadMask([masks.CausalMask((context, context)) for _ in range(num_heads)])
        return kernel.make_splash_mha_single_device(mask=mask, interpret=True)

    monkeypatch.setattr(attention, "_splash_kernel", interpreted)
    inputs = qkv((1, 128, 2, 128))
    actual, desired = (
        jax.jit(attention.causal_attention, static_argnums=3)(*inputs, implementation)
        for implementation in ("splash", "xla")
    )
    np.testing.assert_allclose(actual, desired, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("backend", "context", "head_dim", "dtype", "expected"),
    [
        ("cpu", 128, 32, jnp.float32, "blocked"),
        ("gpu", 128, 32, jnp.bfloat16, "cudnn"),
        ("gpu", 128, 32, jnp.float32, "xla"),
        ("gpu", 128, 36, jnp.bfloat16, "xla"),
        ("tpu", 2048, 128, jnp.bfloat16, "splash"),
        ("tpu", 2048, 64, jnp.bfloat16, "xla"),
        ("tpu", 100, 128, jnp.bfloat16, "xla"),
    ],
)
def test_pick(backend, context, head_dim, dtype, expected):
    assert attention.pick(backend, context, head_dim, dtype) == expected


@pytest.mark.parametrize(
    ("platform", "head_dim", "kernel"),
    [("tpu", 128, "tpu_custom_call"), ("tpu", 64, None), ("cuda", 128, "__cudnn$fmha"), ("cuda", 32, "__cudnn$fmha")],
)
def test_gradient_lowers_for_accelerators(platform, head_dim, kernel, monkeypatch):
    """d=1024, L=16, T=2048 in bfloat16 with scan and remat, with the kernel that `pick` chooses there."""
    cudnn = pytest.importorskip("jax._src.cudnn.fused_attention_stablehlo")
    monkeypatch.setattr(cudnn, "check_cudnn_version", lambda: 91000)  # what it asks the machine for
    monkeypatch.setattr(cudnn, "check_compute_capability", lambda capability: True)
    spec = Spec("tokens", 32_768, 2048)
    execution = Execution(
        compute_dtype="bfloat16",
        scan_layers=True,
        remat=True,
        attention=attention.pick(platform, spec.context, head_dim, jnp.bfloat16),
    )
    model = Transformer(head_dim=head_dim).build(1024, 16, spec, Scaling("mup", 1024, 256), execution)
    params = jax.eval_shape(model.init, jax.random.key(0))
    tokens = jax.ShapeDtypeStruct((8, spec.context + 1), jnp.int32)
    exported = jax.export.export(
        jax.jit(jax.grad(lambda p, b: model.loss(p, b)[0])),
        platforms=[platform],
        disabled_checks=[
            jax.export.DisabledSafetyCheck.custom_call(f"__cudnn$fmhaSoftmax{suffix}") for suffix in ("", "Backward")
        ],
    )(params, tokens)
    text = exported.mlir_module()
    assert kernel in text if kernel else "custom_call @tpu" not in text
