"""How initial scales and learning rates follow the width.

muP (Yang & Hu 2021, arXiv:2011.14522; Table 3 of Yang et al. 2022, arXiv:2203.03466, i.e. without multipliers in the
forward pass) keeps the size of every layer's update independent of width, so that a rate tuned on a small scale serves
the whole ladder:

  role        initial std        rate (Adam)      rate (SGD)     what it is
  embedding   1                  1                width / base   lookup table: one active input
  input       1 / sqrt(fan_in)   1                width / base   fixed inputs -> width
  hidden      1 / sqrt(fan_in)   base / width     1              width -> width
  output      0                  base / width     base / width   width -> fixed outputs
  vector      -                  1                width / base   biases, gains: one entry per channel
  scalar      -                  1                1              entries that all channels share

Rates are factors on the peak rate, equal to 1 at `base_width` in every role. fan_in of a convolution is its window
times its input channels. The output layer starts at zero, so that the first loss is ln(classes) at every width.
`standard` gives fan-in initialisation (0.02 for embeddings) and one rate for all.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax

EMBEDDING, INPUT, HIDDEN, OUTPUT, VECTOR, SCALAR = "embedding", "input", "hidden", "output", "vector", "scalar"


@dataclasses.dataclass(frozen=True)
class Scaling:
    """The rules of one parametrisation at one width.

    Attributes:
      name: "mup" or "standard".
      width: of this scale.
      base_width: where all rate factors are 1.
      optimizer: "adamw" or "sgd": muP's rates differ.
    """

    name: str
    width: int
    base_width: int
    optimizer: str = "adamw"

    def std(self, role: str, fan_in: int) -> float:
        """Initial standard deviation of an array whose outputs sum `fan_in` inputs each."""
        if role == EMBEDDING:
            return 1.0 if self.name == "mup" else 0.02
        if role == OUTPUT and self.name == "mup":
            return 0.0
        return 1.0 / math.sqrt(fan_in)

    def lr_multiplier(self, role: str) -> float:
        """Factor on the peak rate of an array of this role."""
        if self.name == "standard" or role == SCALAR:
            return 1.0
        ratio = self.base_width / self.width
        if role == OUTPUT:
            return ratio
        if self.optimizer == "sgd":
            return 1.0 if role == HIDDEN else 1.0 / ratio
        return ratio if role == HIDDEN else 1.0

    def multipliers(self, shapes: Any, role_of: Callable[[tuple[str, ...]], str]) -> tuple[Any, Any]:
        """(lr_multipliers, decay_mask): pytrees like `shapes`; decay is on what multiplies activations.

        Args:
          shapes: pytree of arrays or ShapeDtypeStructs.
          role_of: names along the path of a leaf -> its role.
        """

        def names(path) -> tuple[str, ...]:
            return tuple(str(getattr(k, "key", getattr(k, "name", k))) for k in path)

        rates = jax.tree_util.tree_map_with_path(lambda p, _: self.lr_multiplier(role_of(names(p))), shapes)
        decay = jax.tree_util.tree_map_with_path(lambda p, _: role_of(names(p)) in (INPUT, HIDDEN, OUTPUT), shapes)
        return rates, decay


def normal_init(std: float) -> Callable:
    """Linen initialiser: normal of standard deviation `std`, exactly zero when that is 0."""
    return jax.nn.initializers.normal(std) if std else jax.nn.initializers.zeros
