"""Causal self-attention, one implementation per backend behind one signature.

`xla` and `cudnn` are `jax.nn.dot_product_attention`; `splash` is JAX's own TPU kernel. `blocked` is ours, for CPU:
batched matmuls over (batch x heads) in a few static query blocks, each against the keys it may see, which skips the
masked quarter of the square and the layout changes that XLA:CPU makes of the 4-dimensional einsum (see benchmarks/).
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp

from scaling_jax.models import partition

NUM_QUERY_BLOCKS = 2


def pick(backend: str, context: int, head_dim: int, dtype: Any) -> str:
    """The fastest implementation that supports this shape on `backend` ("cpu", "gpu"/"cuda", "tpu")."""
    if backend == "cpu":
        return "blocked"
    # cuDNN's flash attention takes half precision and head sizes that are multiples of 8 up to 128.
    if backend in ("gpu", "cuda") and dtype == jnp.bfloat16 and head_dim % 8 == 0 and head_dim <= 128:
        return "cudnn"
    # The splash kernel works on 128-wide tiles.
    if backend == "tpu" and context % 128 == 0 and head_dim % 128 == 0:
        return "splash"
    return "xla"


def cudnn_refuses(context: int, head_dim: int) -> str:
    """The reason that cuDNN cannot take this shape on this machine (its version, the chip's age); empty when it can."""
    x = jax.ShapeDtypeStruct((1, context, 1, head_dim), jnp.bfloat16)
    attend = functools.partial(jax.nn.dot_product_attention, is_causal=True, implementation="cudnn")
    try:
        jax.eval_shape(jax.grad(lambda q, k, v: attend(q, k, v).sum().astype(jnp.float32)), x, x, x)
    except (NotImplementedError, RuntimeError, ValueError) as error:
        return " ".join(str(error).split())
    return ""


def scores_share(implementation: str) -> float:
    """Share of the square of scores that is computed and held: the blocks that are not entirely masked."""
    return (NUM_QUERY_BLOCKS + 1) / (2 * NUM_QUERY_BLOCKS) if implementation == "blocked" else 1.0


def causal_attention(q_BxTxNxH: Any, k_BxTxNxH: Any, v_BxTxNxH: Any, implementation: str) -> Any:
    """softmax(q k^T / sqrt(H)) v over the keys at or before each query; softmax in float32.

    Args:
      q_BxTxNxH, k_BxTxNxH, v_BxTxNxH: batch x tokens x heads x head_dim.
      implementation: "xla", "blocked", "cudnn" or "splash".

    Returns:
      [B, T, N, H] in the dtype of q.
    """
    if implementation == "blocked":
        return _blocked(q_BxTxNxH, k_BxTxNxH, v_BxTxNxH)
    if implementation == "splash":
        return partition.on_each_part(_splash, q_BxTxNxH, k_BxTxNxH, v_BxTxNxH)
    attend: Any = functools.partial(jax.nn.dot_product_attention, is_causal=True)
    attend = functools.partial(attend, implementation=implementation)
    if implementation == "cudnn":
        return partition.on_each_part(attend, q_BxTxNxH, k_BxTxNxH, v_BxTxNxH)
    return attend(q_BxTxNxH, k_BxTxNxH, v_BxTxNxH)


def _blocked(q_BxTxNxH: Any, k_BxTxNxH: Any, v_BxTxNxH: Any) -> Any:
    B, T, N, H = q_BxTxNxH.shape

    def flat(x_BxTxNxH):
        return x_BxTxNxH.transpose(0, 2, 1, 3).reshape(B * N, T, H)

    q_GxTxH, k_GxTxH, v_GxTxH = flat(q_BxTxNxH) * (H**-0.5), flat(k_BxTxNxH), flat(v_BxTxNxH)
    size = -(-T // NUM_QUERY_BLOCKS)
    outputs = []
    for start in range(0, T, size):
        stop = min(start + size, T)
        scores_GxQxK = jnp.einsum(
            "gqh,gkh->gqk", q_GxTxH[:, start:stop], k_GxTxH[:, :stop], preferred_element_type=jnp.float32
        )
        mask_QxK = jnp.arange(start, stop)[:, None] >= jnp.arange(stop)[None, :]
        weights_GxQxK = jax.nn.softmax(jnp.where(mask_QxK[None], scores_GxQxK, -1e30), axis=-1)
        outputs.append(jnp.einsum("gqk,gkh->gqh", weights_GxQxK.astype(v_GxTxH.dtype), v_GxTxH[:, :stop]))
    out_GxTxH = jnp.concatenate(outputs, axis=1)
    return out_GxTxH.reshape(B, N, T, H).transpose(0, 2, 1, 3)


@functools.lru_cache(maxsize=8)
def _splash_kernel(num_heads: int, context: int) -> Any:
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernel
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    mask = masks.MultiHeadMask([masks.CausalMask((context, context)) for _ in range(num_heads)])
    return kernel.make_splash_mha_single_device(mask=mask)


def _splash(q_BxTxNxH: Any, k_BxTxNxH: Any, v_BxTxNxH: Any) -> Any:
    _, T, N, H = q_BxTxNxH.shape

    def heads_first(x):
        return x.transpose(0, 2, 1, 3)

    with jax.ensure_compile_time_eval():
        kernel = _splash_kernel(N, T)
    out = jax.vmap(kernel)(heads_first(q_BxTxNxH * (H**-0.5)), heads_first(k_BxTxNxH), heads_first(v_BxTxNxH))
    return heads_first(out)
