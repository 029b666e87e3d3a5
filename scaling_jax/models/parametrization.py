"""Initial scales and learning rates as functions of width and depth.

muP (Yang & Hu 2021, arXiv:2011.14522; Table 3 of Yang et al. 2022, arXiv:2203.03466, i.e. without multipliers in the
forward pass) keeps the size of every layer's update independent of width, so that a rate tuned on a small scale serves
the whole ladder. Initial standard deviations by role:

  embedding   1                lookup table: one active input
  input       1 / sqrt(fan_in) fixed inputs -> width
  hidden      1 / sqrt(fan_in) width -> width
  output      0                width -> fixed outputs
  vector      -                biases, gains: one entry per channel
  scalar      -                entries that all channels share

Factors on the peak rate by role are the optimizer's (`scaling_jax.models.optimizers`), equal to 1 at `base_width` in
every role. fan_in of a convolution is its window times its input channels. The output layer starts at zero, so that the
first loss is ln(classes) at every width.

`completep` is muP with CompleteP's transfer over depth (Dey et al. 2025, arXiv:2505.01618, alpha = 1): every residual
branch is multiplied by base_depth / depth, its initial values do not shrink with depth, its learning rate changes as
the optimizer's table says (not at all for Adam), and Adam's epsilon shrinks as 1 / (width x depth). At `base_depth` and
`base_width` every factor is 1. `standard` gives fan-in initialization (0.02 for embeddings) and one rate for all.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax

from scaling_jax.models import optimizers
from scaling_jax.models.optimizers import EMBEDDING, HIDDEN, INPUT, OUTPUT, SCALAR, VECTOR

__all__ = ["EMBEDDING", "HIDDEN", "INPUT", "OUTPUT", "SCALAR", "VECTOR", "Scaling", "normal_init"]


@dataclasses.dataclass(frozen=True)
class Scaling:
    """The rules of one parametrization at one scale.

    Attributes:
      name: "mup", "standard" or "completep".
      width: of this scale.
      base_width: the width where all factors on the rate are 1.
      optimizer: name of a registered optimizer, whose table gives the factors.
      depth: of this scale.
      base_depth: the depth where CompleteP's factors are 1.
    """

    name: str
    width: int
    base_width: int
    optimizer: str = "adamw"
    depth: int = 1
    base_depth: int = 1

    @property
    def branch_multiplier(self) -> float | None:
        """CompleteP's factor on every residual branch; None where the family keeps its own rule."""
        return self.base_depth / self.depth if self.name == "completep" else None

    @property
    def eps_multiplier(self) -> float:
        """Factor on Adam's epsilon: CompleteP shrinks it with the gradients of wide and deep models."""
        if self.name != "completep":
            return 1.0
        return (self.base_width / self.width) * (self.base_depth / self.depth)

    def std(self, role: str, fan_in: int) -> float:
        """Initial standard deviation of an array whose outputs sum `fan_in` inputs each."""
        if role == EMBEDDING:
            return 0.02 if self.name == "standard" else 1.0
        if role == OUTPUT and self.name != "standard":
            return 0.0
        return 1.0 / math.sqrt(fan_in)

    def lr_multiplier(self, role: str, in_branch: bool = False) -> float:
        """Factor on the peak rate of an array of this role.

        Args:
          role: of the array.
          in_branch: True for arrays of residual branches, whose rate CompleteP changes with the depth.

        Raises:
          UserError: the optimizer is not registered or its table lacks the role.
        """
        rule = optimizers.rule(self.optimizer)
        if self.name == "standard":
            return 1.0
        rate = rule.width_multiplier(role, self.base_width / self.width)
        if in_branch and self.name == "completep" and rule.depth_rate:
            rate *= (self.depth / self.base_depth) ** rule.depth_rate
        return rate

    def array_rules(
        self,
        shapes: Any,
        role_of: Callable[[tuple[str, ...]], str],
        in_branch: Callable[[tuple[str, ...]], bool] | None = None,
    ) -> dict[str, Any]:
        """The fields of a `Model` that follow from the roles of its arrays: `Model(..., **scaling.array_rules(...))`.

        Args:
          shapes: pytree of arrays or ShapeDtypeStructs.
          role_of: names along the path of an array in the pytree -> its role.
          in_branch: the same names -> whether the array is part of a residual branch; by default none is.

        Returns:
          lr_multipliers, decay_mask (decay is on arrays that multiply activations) and roles, pytrees like `shapes`,
          and eps_multiplier.
        """

        def each(function: Callable[[tuple[str, ...]], Any]) -> Any:
            return jax.tree_util.tree_map_with_path(lambda path, _: function(_names(path)), shapes)

        inside = in_branch or (lambda path: False)
        return {
            "lr_multipliers": each(lambda path: self.lr_multiplier(role_of(path), inside(path))),
            "decay_mask": each(lambda path: role_of(path) in (INPUT, HIDDEN, OUTPUT)),
            "roles": each(role_of),
            "eps_multiplier": self.eps_multiplier,
        }


def _names(path: tuple[Any, ...]) -> tuple[str, ...]:
    return tuple(str(getattr(k, "key", getattr(k, "name", k))) for k in path)


def normal_init(std: float) -> Callable[..., Any]:
    """Linen initializer: normal of standard deviation `std`, exactly zero when that is 0."""
    return jax.nn.initializers.normal(std) if std else jax.nn.initializers.zeros
