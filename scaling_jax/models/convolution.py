"""2-D convolution, one implementation per backend behind one signature, and the norms that go with it.

`xla` is XLA's own convolution. `patches` gathers every window's inputs and multiplies once: XLA:CPU falls back to a
naive loop for convolutions inside a compiled loop (measured 8 against 90 GFLOP/s on two cores), and under `vmap`, which
makes grouped convolutions of lanes, `patches` stays a batched matmul.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from scaling_jax.models.layers import linear


def pick(backend: str) -> str:
    """The faster implementation on `backend` ("cpu", "gpu"/"cuda", "tpu")."""
    return "patches" if backend == "cpu" else "xla"


def conv2d(x_BxHxWxC: Any, w_KxKxCxO: Any, stride: int, implementation: str) -> Any:
    """Convolution with "SAME" zero padding.

    Args:
      x_BxHxWxC: batch x height x width x channels.
      w_KxKxCxO: window x window x input channels x output channels, float32 master weights.
      stride: of the window in both directions.
      implementation: "xla" or "patches".

    Returns:
      [B, ceil(H / stride), ceil(W / stride), O] in the dtype of x.
    """
    if implementation == "patches":
        return _patches(x_BxHxWxC, w_KxKxCxO, stride)
    dims = ("NHWC", "HWIO", "NHWC")
    w_KxKxCxO = w_KxKxCxO.astype(x_BxHxWxC.dtype)
    return jax.lax.conv_general_dilated(x_BxHxWxC, w_KxKxCxO, (stride, stride), "SAME", dimension_numbers=dims)


def _patches(x_BxHxWxC: Any, w_KxKxCxO: Any, stride: int) -> Any:
    """Not `lax.conv_general_dilated_patches`, which is itself a convolution on a CPU."""
    B, H, W, C = x_BxHxWxC.shape
    K, O = w_KxKxCxO.shape[0], w_KxKxCxO.shape[-1]
    rows, columns = -(-H // stride), -(-W // stride)
    pads = jax.lax.padtype_to_pads((H, W), (K, K), (stride, stride), "SAME")
    padded = jnp.pad(x_BxHxWxC, ((0, 0), *pads, (0, 0)))
    windows = [
        padded[:, i : i + stride * (rows - 1) + 1 : stride, j : j + stride * (columns - 1) + 1 : stride]
        for i in range(K)
        for j in range(K)
    ]
    patches_RxP = jnp.concatenate(windows, axis=-1).reshape(-1, K * K * C)
    return linear(patches_RxP, w_KxKxCxO.reshape(K * K * C, O)).reshape(B, rows, columns, O)


def standardize(w_KxKxCxO: Any) -> Any:
    """Weights of zero mean and variance 1 / fan_in per output channel (weight standardization, arXiv:1903.10520)."""
    centered = w_KxKxCxO - jnp.mean(w_KxKxCxO, axis=(0, 1, 2), keepdims=True)
    return centered * jax.lax.rsqrt(jnp.sum(jnp.square(centered), axis=(0, 1, 2), keepdims=True) + 1e-4)


def group_norm(x_BxHxWxC: Any, gain_C: Any, bias_C: Any, group_size: int) -> Any:
    """Each group of channels of each image to mean 0 and variance 1, in float32 (GroupNorm, arXiv:1803.08494).

    The sums run per channel first, so that what touches every pixel is one multiply and one add.
    """
    x32 = x_BxHxWxC.astype(jnp.float32)
    C = x32.shape[-1]

    def grouped(m_BxC):
        return jnp.repeat(m_BxC.reshape(-1, C // group_size, group_size).mean(-1), group_size, axis=-1)

    mean_BxC = grouped(jnp.mean(x32, axis=(1, 2)))
    variance_BxC = jnp.maximum(grouped(jnp.mean(jnp.square(x32), axis=(1, 2))) - jnp.square(mean_BxC), 0.0)
    scale_BxC = jax.lax.rsqrt(variance_BxC + 1e-5) * gain_C[None]
    shift_BxC = bias_C[None] - mean_BxC * scale_BxC
    return (x32 * scale_BxC[:, None, None] + shift_BxC[:, None, None]).astype(x_BxHxWxC.dtype)
