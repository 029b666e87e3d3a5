"""Random crop and flip on the device, a pure function of (seed, step), so that resuming needs no saved state."""

from __future__ import annotations

import jax
import jax.numpy as jnp

# Folded into the seed's key first: initialization draws from the same seed, and must not share its random numbers.
DOMAIN = 0x617567


def augment_key(seed: int | jax.Array, step: int | jax.Array) -> jax.Array:
    """The random key of one training step's augmentation.

    Args:
      seed: of the run; may be traced.
      step: training step, from 0; may be traced.

    Returns:
      A key that no other step and no other use of the seed has.
    """
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), DOMAIN), step)


def augment(key: jax.Array, images: jax.Array, *, flip: bool = True, padding: int | None = None) -> jax.Array:
    """Shifts every image by a random offset over a black border and mirrors half of them left to right.

    The standard recipe for small images (He et al. 2016, arXiv:1512.03385, section 4.2).

    Args:
      key: of this step, from `augment_key`.
      images: [B, H, W, C], any dtype; black is 0.
      flip: mirror images; False where a mirrored image changes its class (`Dataset.info["flip"]`; digits do).
      padding: largest shift in pixels; default an eighth of the height (4 of 32).

    Returns:
      Images of the same shape and dtype.
    """
    batch, height, width, _ = images.shape
    padding = height // 8 if padding is None else padding
    crop_key, flip_key = jax.random.split(key)
    padded = jnp.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    # Unsigned and in bounds by promise: a gather on a CPU tests every pixel's indices else.
    offsets = jax.random.randint(crop_key, (2, batch), 0, 2 * padding + 1).astype(jnp.uint32)
    image, rows, columns = (jnp.arange(n, dtype=jnp.uint32) for n in (batch, height, width))
    rows, columns = offsets[0][:, None] + rows, offsets[1][:, None] + columns
    if flip:
        mirrored = jax.random.bernoulli(flip_key, 0.5, (batch, 1))
        columns = jnp.where(mirrored, columns[:, ::-1], columns)
    places = image[:, None, None], rows[:, :, None], columns[:, None, :]
    return padded.at[places].get(mode="promise_in_bounds")
