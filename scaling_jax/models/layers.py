"""Layers whose backward passes are written out, because those that JAX derives are slow on a CPU.

XLA:CPU computes the derived weight gradient as the transpose of a product with a copied operand, at a quarter of the
machine's speed, and holds every broadcast that a derived reduction reads in memory (measured: benchmarks/README.md).
The mathematics is that of the plain expressions. Forward mode and its mixtures work, see `autodiff`.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from scaling_jax.models import partition
from scaling_jax.models.autodiff import linear_map

NORM_EPSILON = 1e-6
EXACT = jax.lax.Precision.HIGHEST  # float32 sums stay float32 where matmuls default to less


def embed(table_VxM: Any, tokens_BxT: Any) -> Any:
    """Rows of the table, [B, T, M]; every device adds up the gradient of its own part of the batch."""

    def rows(residuals: tuple[Any, ...], table_VxM: Any) -> Any:
        return table_VxM[residuals[0]]

    def scatter(residuals: tuple[Any, ...], g_BxTxM: Any) -> Any:
        def summed(tokens_BxT: Any, g_BxTxM: Any) -> Any:
            return jnp.zeros(shape, g_BxTxM.dtype).at[tokens_BxT].add(g_BxTxM)

        return partition.on_each_part(summed, residuals[0], g_BxTxM, summed=True)

    shape = table_VxM.shape
    return linear_map(rows, scatter, (tokens_BxT,), table_VxM)


def linear(x: Any, w: Any) -> Any:
    """x @ w in the dtype of x.

    Args:
      x: [..., m].
      w: [m, n] float32 master weights; their gradient is float32, too, summed over rows in float32.

    Returns:
      [..., n].
    """
    return linear_map(_multiply, _weight_gradient, (x,), w)


def _multiply(residuals: tuple[Any, ...], w: Any) -> Any:
    (x,) = residuals
    return x @ w.astype(x.dtype)


def _weight_gradient(residuals: tuple[Any, ...], g: Any) -> Any:
    (x,) = residuals
    x_Rxm, g_Rxn = x.reshape(-1, x.shape[-1]), g.reshape(-1, g.shape[-1])
    return jax.lax.platform_dependent(x_Rxm, g_Rxn, cpu=_wide_product, default=_product)


def _product(x_Rxm: Any, g_Rxn: Any) -> Any:
    """x^T g, summed in float32."""
    return jax.lax.dot_general(x_Rxm, g_Rxn, (((0,), (0,)), ((), ())), preferred_element_type=jnp.float32)


def _wide_product(x_Rxm: Any, g_Rxn: Any) -> Any:
    """x^T g by the product whose rows are long, which is up to twice as fast; the barrier keeps XLA from undoing it."""
    if x_Rxm.shape[1] <= g_Rxn.shape[1]:
        return _product(x_Rxm, g_Rxn)
    return jax.lax.optimization_barrier(_product(g_Rxn, x_Rxm)).T


def rms_norm(x: Any, gain: Any) -> Any:
    """x / rms(x) * gain over the last axis, in float32, back in x's dtype (Zhang & Sennrich, arXiv:1910.07467).

    Args:
      x: [..., m].
      gain: float32 [m].
    """
    return _rms_norm(x, gain)


@jax.custom_jvp
def _rms_norm(x: Any, gain: Any) -> Any:
    return (x.astype(jnp.float32) * _inverse_rms(x) * _row(gain, x)).astype(x.dtype)


@_rms_norm.defjvp
def _rms_norm_jvp(primals: Any, tangents: Any) -> Any:
    x, gain = primals
    dx, dgain = tangents
    scale = _inverse_rms(x)
    out = (x.astype(jnp.float32) * scale * _row(gain, x)).astype(x.dtype)
    by_x = linear_map(_norm_by_x, _norm_by_x_transposed, (x, scale, gain), dx)
    return out, by_x + linear_map(_norm_by_gain, _norm_by_gain_transposed, (x, scale), dgain)


def _inverse_rms(x: Any) -> Any:
    return jax.lax.rsqrt(jnp.mean(jnp.square(x.astype(jnp.float32)), axis=-1, keepdims=True) + NORM_EPSILON)


def _norm_by_x(residuals: tuple[Any, ...], dx: Any) -> Any:
    """With r = 1 / rms(x): gain (r dx - x r^3 mean(x dx))."""
    x, scale, gain = residuals
    x32, dx32 = x.astype(jnp.float32), dx.astype(jnp.float32)
    along = jnp.mean(x32 * dx32, axis=-1, keepdims=True)
    return ((dx32 * scale - x32 * (scale**3 * along)) * _row(gain, x)).astype(x.dtype)


def _norm_by_x_transposed(residuals: tuple[Any, ...], g: Any) -> Any:
    """With r = 1 / rms(x): dx = r gain g - x r^3 mean(x gain g); the sum is a product."""
    x, scale, gain = residuals
    m = x.shape[-1]
    x32, g32 = x.astype(jnp.float32), g.astype(jnp.float32)
    along = jnp.matmul((g32 * x32).reshape(-1, m), gain, precision=EXACT).reshape(scale.shape)
    return (g32 * (scale * _row(gain, x)) - x32 * (scale**3 * along / m)).astype(x.dtype)


def _norm_by_gain(residuals: tuple[Any, ...], dgain: Any) -> Any:
    x, scale = residuals
    return (x.astype(jnp.float32) * scale * _row(dgain, x)).astype(x.dtype)


def _norm_by_gain_transposed(residuals: tuple[Any, ...], g: Any) -> Any:
    """The sum of r x g over rows, as a product."""
    x, scale = residuals
    product_Rxm = (g.astype(jnp.float32) * x.astype(jnp.float32)).reshape(-1, x.shape[-1])
    return jnp.matmul(scale.reshape(-1), product_Rxm, precision=EXACT)


def _row(gain: Any, x: Any) -> Any:
    return gain.reshape((1,) * (x.ndim - 1) + gain.shape)
