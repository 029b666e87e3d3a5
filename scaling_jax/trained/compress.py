"""Compressed weights: rounded to few bits, or with the small ones left out. What is compressed are the matrices.

A matrix is an array of the roles input, hidden and output (`Model.decay_mask`): embeddings, gains and biases stay.
Arrays are in the precision of training again, so that what compression costs is all that changes.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from scaling_jax.errors import UserError
from scaling_jax.models.family import Model

BITS = {"int8": 8, "int4": 4}


@dataclasses.dataclass(frozen=True)
class Treatment:
    """Something done to trained models before they are scored.

    Attributes:
      name: the ending of its columns, such as "int8", "pruned50", "ensemble".
      bits: of `quantize`; 0 for none.
      share: of `prune`.
      ensemble: True where the predictions of a scale's seeds are averaged.
    """

    name: str
    bits: int = 0
    share: float = 0.0
    ensemble: bool = False

    def apply(self, params: Any, model: Model) -> Any:
        """The parameters after compression; traced."""
        if self.bits:
            return quantize(params, model.decay_mask, self.bits)
        return prune(params, model.decay_mask, self.share) if self.share else params


def treatments(quantized: Any = (), pruned: Any = (), ensemble: bool = False) -> tuple[Treatment, ...]:
    """The treatments that flags ask for.

    Raises:
      UserError: an unknown number of bits, or a share outside (0, 1) or of more than two digits.
    """
    out = []
    for name in quantized:
        if name not in BITS:
            raise UserError(f"--quantize={name}: give int8 or int4")
        out.append(Treatment(name, bits=BITS[name]))
    for text in pruned:
        if not re.fullmatch(r"0?\.\d{1,2}", str(text)) or not 0 < float(text) < 1:
            raise UserError(f"--prune={text}: give a share such as 0.5, between 0.01 and 0.99")
        out.append(Treatment(f"pruned{round(100 * float(text)):02d}", share=float(text)))
    return (*out, Treatment("ensemble", ensemble=True)) if ensemble else tuple(out)


def quantize(params: Any, matrices: Any, bits: int) -> Any:
    """Weights rounded to the nearest of 2^bits - 1 evenly spaced values, symmetric about 0, and back in float.

    The spacing is max|w| / (2^(bits-1) - 1), per output channel (the last axis) and, where layers are stacked, layer.

    Args:
      params: pytree of arrays [..., inputs, outputs].
      matrices: pytree like params, True for what is rounded (`Model.decay_mask`).
      bits: 8 or 4.

    Example:
      >>> quantize({"w": jnp.array([[0.1], [-0.5], [0.875]])}, {"w": True}, bits=4)["w"].ravel().tolist()
      [0.125, -0.5, 0.875]
    """
    levels = 2 ** (bits - 1) - 1

    def one(w: Any) -> Any:
        inputs = (-2,) if w.ndim < 4 else (-4, -3, -2)  # of a convolution: its window, too
        spacing = jnp.max(jnp.abs(w), axis=inputs, keepdims=True) / levels
        spacing = jnp.where(spacing > 0, spacing, 1.0)
        return jnp.clip(jnp.round(w / spacing), -levels, levels) * spacing

    return _on_matrices(one, params, matrices)


def prune(params: Any, matrices: Any, share: float) -> Any:
    """The given share of every matrix's entries set to 0, the smallest magnitudes first (one threshold per layer).

    Args:
      params: pytree of arrays.
      matrices: pytree like params, True for what is pruned.
      share: in (0, 1); rounded down to whole entries.

    Example:
      >>> prune({"w": jnp.array([[0.5, -2.0], [1.0, 0.25]])}, {"w": True}, 0.5)["w"].tolist()
      [[0.0, -2.0], [1.0, 0.0]]
    """

    def one(w: Any) -> Any:
        layers = w.reshape(w.shape[0] if w.ndim in (3, 5) else 1, -1)
        count = int(share * layers.shape[1])
        order = jnp.argsort(jnp.argsort(jnp.abs(layers), axis=1), axis=1)
        return jnp.where(order >= count, layers, 0.0).reshape(w.shape)

    return _on_matrices(one, params, matrices)


def need_matrices(model: Model, family: str) -> None:
    """Raises UserError for a model without anything to compress."""
    if not any(jax.tree.leaves(model.decay_mask)):
        raise UserError(f"family {family!r} has no matrices (Model.decay_mask) to quantize or prune")


def _on_matrices(function: Callable[[Any], Any], params: Any, matrices: Any) -> Any:
    return jax.tree.map(lambda w, matrix: function(w) if matrix and w.ndim > 1 else w, params, matrices)
