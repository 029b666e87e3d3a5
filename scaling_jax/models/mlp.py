"""Multilayer perceptrons on images: the smallest whole family, without a module library (see docs/families.md)."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from scaling_jax.errors import UserError
from scaling_jax.models import accounting, classification
from scaling_jax.models.family import Counts, Model, Spec, register
from scaling_jax.models.parametrization import HIDDEN, INPUT, OUTPUT, VECTOR, Scaling

ROLES = {"input": INPUT, "hidden": HIDDEN, "bias": VECTOR, "head": OUTPUT}


@register
@dataclasses.dataclass(frozen=True, kw_only=True)
class MLP:
    """`depth` layers of `width` ReLU units on the flattened image, then a linear head.

    Attributes:
      label_smoothing: in the training loss only.
    """

    name: ClassVar[str] = "mlp"
    inputs: ClassVar[str] = "images"

    label_smoothing: float = 0.0

    def check(self, width: int, depth: int, spec: Spec) -> None:
        """Every width and depth can be built."""

    def counts(self, width: int, depth: int, spec: Spec) -> Counts:
        """Parameters and exact training FLOPs per image."""
        first, hidden, head = math.prod(spec.image) * width, (depth - 1) * width**2, width * spec.vocab_size
        non_embedding = first + hidden + depth * width
        no_gradient = accounting.matmul_flops(first)  # the inputs are pixels
        return Counts(
            params_total=non_embedding + head,
            params_non_embedding=non_embedding,
            params_matmul=non_embedding + head,
            flops_per_token=accounting.training_flops(accounting.matmul_flops(first + hidden + head)) - no_gradient,
        )

    def activation_bytes(self, width: int, depth: int, spec: Spec, batch_size: int, execution: Any) -> int:
        """Estimated peak bytes of activations of one batch: the image, and each layer before and after its ReLU."""
        return batch_size * (4 * math.prod(spec.image) + 8 * depth * width)

    def build(self, width: int, depth: int, spec: Spec, scaling: Scaling, execution: Any) -> Model:
        """One scale as pure functions."""
        if scaling.branch_multiplier is not None:
            raise UserError("family mlp has no residual branches for CompleteP to scale; set parametrization.name=mup")
        P, M, K, dtype = math.prod(spec.image), width, spec.vocab_size, jnp.dtype(execution.compute_dtype)

        def init(key):
            keys = jax.random.split(key, 3)
            params = {
                "input": scaling.std(INPUT, P) * jax.random.normal(keys[0], (P, M)),
                "bias": jnp.zeros((depth, M)),
                "head": scaling.std(OUTPUT, M) * jax.random.normal(keys[2], (M, K)),
            }
            if depth > 1:  # arrays without entries cannot be checkpointed
                params["hidden"] = scaling.std(HIDDEN, M) * jax.random.normal(keys[1], (depth - 1, M, M))
            return params

        def logits(params, image_BxHxWxC):
            params = jax.tree.map(lambda p: p.astype(dtype), params)
            x_BxM = image_BxHxWxC.reshape(-1, P).astype(dtype) @ params["input"] + params["bias"][:1]
            for i in range(depth - 1):
                x_BxM = math.sqrt(2) * jax.nn.relu(x_BxM) @ params["hidden"][i] + params["bias"][i + 1][None]
            return math.sqrt(2) * jax.nn.relu(x_BxM) @ params["head"]

        rules = scaling.array_rules(jax.eval_shape(init, jax.random.key(0)), lambda path: ROLES[path[-1]])
        functions = classification.functions(logits, self.label_smoothing)
        return Model(init=init, **functions, **rules)
