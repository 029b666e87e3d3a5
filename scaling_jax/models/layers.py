"""Layers with their backward passes written out, because what JAX derives is slow on a CPU.

XLA:CPU computes the derived weight gradient as the transpose of a product with a copied operand, at a quarter of the
machine's speed, and holds every broadcast that a derived reduction reads in memory (measured: benchmarks/README.md).
The mathematics is that of the plain expressions.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from scaling_jax.models import partition

NORM_EPSILON = 1e-6
EXACT = jax.lax.Precision.HIGHEST  # float32 sums stay float32 where matmuls default to less


@jax.custom_vjp
def embed(table_VxM, tokens_BxT):
    """Rows of the table, [B, T, M]; every device adds up the gradient of its own part of the batch."""
    return table_VxM[tokens_BxT]


def _embed_forward(table_VxM, tokens_BxT):
    return embed(table_VxM, tokens_BxT), (table_VxM, tokens_BxT)


def _embed_backward(residuals, g_BxTxM):
    table_VxM, tokens_BxT = residuals

    def scatter(tokens_BxT, g_BxTxM):
        return jnp.zeros(table_VxM.shape, table_VxM.dtype).at[tokens_BxT].add(g_BxTxM)

    return partition.on_each_part(scatter, tokens_BxT, g_BxTxM, summed=True), None


embed.defvjp(_embed_forward, _embed_backward)


@jax.custom_vjp
def linear(x, w):
    """x @ w in the dtype of x.

    Args:
      x: [..., m].
      w: [m, n] float32 master weights; their gradient is float32, too, summed over rows in float32.

    Returns:
      [..., n].
    """
    return x @ w.astype(x.dtype)


def _linear_forward(x, w):
    return linear(x, w), (x, w)


def _linear_backward(residuals, g):
    x, w = residuals
    m, n = w.shape
    dx = jax.lax.dot_general(g, w.astype(g.dtype), (((g.ndim - 1,), (1,)), ((), ())))
    x_Rxm, g_Rxn = x.reshape(-1, m), g.reshape(-1, n)
    dw = jax.lax.platform_dependent(x_Rxm, g_Rxn, cpu=_wide_product, default=_product)
    return dx, dw.astype(w.dtype)


linear.defvjp(_linear_forward, _linear_backward)


def _product(x_Rxm, g_Rxn):
    """x^T g, summed in float32."""
    return jax.lax.dot_general(x_Rxm, g_Rxn, (((0,), (0,)), ((), ())), preferred_element_type=jnp.float32)


def _wide_product(x_Rxm, g_Rxn):
    """x^T g by the product whose rows are long, which is up to twice as fast; the barrier keeps XLA from undoing it."""
    if x_Rxm.shape[1] <= g_Rxn.shape[1]:
        return _product(x_Rxm, g_Rxn)
    return jax.lax.optimization_barrier(_product(g_Rxn, x_Rxm)).T


@jax.custom_vjp
def rms_norm(x, gain):
    """x / rms(x) * gain over the last axis, in float32, back in x's dtype (Zhang & Sennrich, arXiv:1910.07467).

    Args:
      x: [..., m].
      gain: float32 [m].
    """
    return _norm_forward(x, gain)[0]


def _norm_forward(x, gain):
    x32 = x.astype(jnp.float32)
    scale = jax.lax.rsqrt(jnp.mean(jnp.square(x32), axis=-1, keepdims=True) + NORM_EPSILON)
    return (x32 * scale * _row(gain, x)).astype(x.dtype), (x, scale, gain)


def _norm_backward(residuals, g):
    """With r = 1 / rms(x): dx = r gain g - x r^3 mean(x gain g), dgain = sum of r x g over rows; sums are products."""
    x, scale, gain = residuals
    m = x.shape[-1]
    x32, g32 = x.astype(jnp.float32), g.astype(jnp.float32)
    product_Rxm = (g32 * x32).reshape(-1, m)
    along = jnp.matmul(product_Rxm, gain, precision=EXACT).reshape(scale.shape)
    dgain = jnp.matmul(scale.reshape(-1), product_Rxm, precision=EXACT)
    dx = g32 * (scale * _row(gain, x)) - x32 * (scale**3 * along / m)
    return dx.astype(x.dtype), dgain


def _row(gain, x):
    return gain.reshape((1,) * (x.ndim - 1) + gain.shape)


rms_norm.defvjp(_norm_forward, _norm_backward)
