"""2-D convolution, one implementation per backend behind one signature, and the norms that go with it.

`xla` is XLA's own convolution on [B, H, W, C]. `planes`, for CPU, gathers every window's inputs and multiplies once:
XLA:CPU falls back to a naive loop for convolutions inside a compiled loop (3 against 20 to 90 GFLOP/s of one core), and
under `vmap`, which makes grouped convolutions of lanes, it stays a batched matmul. Its activations are [C, H, W, B]:
windows are then copied in long runs, up to twice as fast as from [B, H, W, C] (benchmarks/README.md).
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp


def pick(backend: str) -> str:
    """The faster implementation on `backend` ("cpu", "gpu"/"cuda", "tpu")."""
    return "planes" if backend == "cpu" else "xla"


def arrange(x_BxHxWxC: Any, implementation: str) -> Any:
    """Images as `conv2d` takes them."""
    return x_BxHxWxC.transpose(3, 1, 2, 0) if implementation == "planes" else x_BxHxWxC


def mean_pixel(x: Any, implementation: str) -> Any:
    """[B, C] in float32, the mean over height and width."""
    mean = jnp.mean(x.astype(jnp.float32), axis=(1, 2))
    return mean.T if implementation == "planes" else mean


def channels(x: Any, implementation: str) -> int:
    """C."""
    return x.shape[0 if implementation == "planes" else -1]


def conv2d(x: Any, w_KxKxCxO: Any, stride: int, implementation: str) -> Any:
    """Convolution with "SAME" zero padding.

    Args:
      x: [B, H, W, C], or [C, H, W, B] for "planes": batch, height, width, channels.
      w_KxKxCxO: window x window x input channels x output channels, float32 master weights.
      stride: of the window in both directions.
      implementation: "xla" or "planes".

    Returns:
      [B, ceil(H / stride), ceil(W / stride), O], or [O, ..., B], in the dtype of x.
    """
    if implementation == "planes":
        return _planes(x, w_KxKxCxO, stride)
    dims = ("NHWC", "HWIO", "NHWC")
    w_KxKxCxO = w_KxKxCxO.astype(x.dtype)
    return jax.lax.conv_general_dilated(x, w_KxKxCxO, (stride, stride), "SAME", dimension_numbers=dims)


def _planes(x_CxHxWxB: Any, w_KxKxCxO: Any, stride: int) -> Any:
    """Not `lax.conv_general_dilated_patches`, which is itself a convolution on a CPU."""
    C, H, W, B = x_CxHxWxB.shape
    K, O = w_KxKxCxO.shape[0], w_KxKxCxO.shape[-1]
    rows, columns = -(-H // stride), -(-W // stride)
    pads = jax.lax.padtype_to_pads((H, W), (K, K), (stride, stride), "SAME")
    padded = jnp.pad(x_CxHxWxB, ((0, 0), *pads, (0, 0)))
    windows = [
        padded[:, i : i + stride * (rows - 1) + 1 : stride, j : j + stride * (columns - 1) + 1 : stride]
        for i in range(K)
        for j in range(K)
    ]
    patches_PxR = jnp.concatenate(windows).reshape(K * K * C, -1)
    w_PxO = w_KxKxCxO.astype(x_CxHxWxB.dtype).reshape(K * K * C, O)
    return (w_PxO.T @ patches_PxR).reshape(O, rows, columns, B)  # flat: an einsum over four axes takes twice as long


def standardize(w_KxKxCxO: Any) -> Any:
    """Weights of zero mean and variance 1 / fan_in per output channel (weight standardization, arXiv:1903.10520)."""
    centered = w_KxKxCxO - jnp.mean(w_KxKxCxO, axis=(0, 1, 2), keepdims=True)
    return centered * jax.lax.rsqrt(jnp.sum(jnp.square(centered), axis=(0, 1, 2), keepdims=True) + 1e-4)


def group_norm(x: Any, gain_C: Any, bias_C: Any, group_size: int, implementation: str) -> Any:
    """Each group of channels of each image to mean 0 and variance 1, in float32 (GroupNorm, arXiv:1803.08494).

    The sums run per channel first, so that what touches every pixel is one multiply and one add.
    """
    x32, C = x.astype(jnp.float32), channels(x, implementation)
    axis = 0 if implementation == "planes" else 1  # of the channels in the means, [C, B] or [B, C]
    gain, bias = (jnp.expand_dims(v_C, 1 - axis) for v_C in (gain_C, bias_C))

    def grouped(mean):
        split = mean.reshape(*mean.shape[:axis], C // group_size, group_size, *mean.shape[axis + 1 :])
        return jnp.repeat(split.mean(axis + 1), group_size, axis=axis)

    mean = grouped(jnp.mean(x32, axis=(1, 2)))
    variance = jnp.maximum(grouped(jnp.mean(jnp.square(x32), axis=(1, 2))) - jnp.square(mean), 0.0)
    scale = jax.lax.rsqrt(variance + 1e-5) * gain
    shift = bias - mean * scale
    return (x32 * scale[:, None, None] + shift[:, None, None]).astype(x.dtype)
