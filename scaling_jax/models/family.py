"""The protocol of a family: architectures with a width and a depth, as pure functions, counted beside their definition.

A family is a frozen dataclass of its options. It knows how to check, count and build one scale; anything that has
these members trains, so a user's own model (Linen, NNX, Haiku or plain functions) plugs in the same way.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar

import pydantic

from scaling_jax.errors import UserError, describe_invalid

PyTree = Any
F = TypeVar("F")


@dataclasses.dataclass(frozen=True)
class Spec:
    """Shape and kind of the data as a model sees them.

    Attributes:
      kind: "tokens" (batches are int [B, T+1]) or "images" (dicts of image [B, H, W, C] and label [B]).
      vocab_size: tokens of the vocabulary, or number of classes.
      context: T for tokens, 1 for images: examples x context is what D counts.
      image_shape: (H, W, C) for images.
    """

    kind: str
    vocab_size: int
    context: int = 1
    image_shape: tuple[int, int, int] | None = None

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Spec:
        """What `dataclasses.asdict` made, as JSON reads it back.

        Raises:
          UserError: it is damaged.
        """
        try:
            return pydantic.TypeAdapter(cls).validate_python(fields)
        except pydantic.ValidationError as error:
            raise UserError(
                f"the description of the data in study.json is damaged: {describe_invalid(error)}"
            ) from None

    @property
    def image(self) -> tuple[int, int, int]:
        """(H, W, C) of image data.

        Raises:
          ValueError: the data are not images.
        """
        if self.image_shape is None:
            raise ValueError(f"data of kind {self.kind!r} has no image shape")
        return self.image_shape


@dataclasses.dataclass(frozen=True)
class Counts:
    """Parameters in every convention, and exact training FLOPs per token (or sample).

    Attributes:
      params_total: every trained number.
      params_non_embedding: without embedding tables and output head.
      params_matmul: non-embedding + output head: the parameters that multiply activations.
      flops_per_token: forward and backward of one token or sample, attention included.
    """

    params_total: int
    params_non_embedding: int
    params_matmul: int
    flops_per_token: float

    @property
    def flops_6nd_per_token(self) -> float:
        """6 N of the C = 6 N D rule, with N = params_matmul."""
        return 6.0 * self.params_matmul


@dataclasses.dataclass(frozen=True)
class Decoding:
    """Generation a token at a time: what a model keeps of the tokens before.

    Attributes:
      start: (params, batch size) -> an empty cache, a pytree of arrays.
      step: (params, cache, tokens int [B, T], position int scalar) -> (logits float32 [B, T, V], cache): the tokens
        have positions position, position + 1, ...; those before are in the cache. Positions beyond the context are not
        allowed.
    """

    start: Callable[[PyTree, int], PyTree]
    step: Callable[[PyTree, PyTree, Any, Any], tuple[Any, PyTree]]


@dataclasses.dataclass(frozen=True)
class Model:
    """One scale as pure functions of plain pytrees.

    Attributes:
      init: key -> params (float32).
      loss: (params, batch) -> (mean loss in nats, metrics), what training minimizes (label smoothing and the like
        included); metrics are means over the batch's tokens or samples.
      evaluate: (params, batch) -> sums over the batch's tokens or samples, at least `loss_sum` (nats, nothing added to
        the cross-entropy) and `count`. Batches of a validation set are summed key by key.
      metrics: those sums over the whole validation set, as NumPy -> floats by name; `loss` (nats per token or sample)
        is always there.
      lr_multipliers: pytree like params: factor on the peak rate of each array (the parametrization's).
      decay_mask: pytree like params: True where weight decay applies (matrices).
      roles: pytree like params: the role of each array; Muon and other optimizers that treat arrays differently read
        it. `Scaling.array_rules` gives these four.
      eps_multiplier: the parametrization's factor on Adam's epsilon.
      logits: (params, inputs) -> float32 logits, of tokens int [B, T] -> [B, T, V] (of the token after each, T up to
        the context), of images float [B, H, W, C] -> [B, K]. A family without it trains; its models cannot be
        sampled, exported, served or averaged.
      decoding: generation with a cache of keys and values, see `Decoding`; None generates by `logits` alone.
    """

    init: Callable[[Any], PyTree]
    loss: Callable[[PyTree, PyTree], tuple[Any, dict[str, Any]]]
    evaluate: Callable[[PyTree, PyTree], dict[str, Any]]
    metrics: Callable[[Mapping[str, Any]], dict[str, float]]
    lr_multipliers: PyTree
    decay_mask: PyTree
    roles: PyTree = None
    eps_multiplier: float = 1.0
    logits: Callable[[PyTree, Any], Any] | None = None
    decoding: Decoding | None = None


def mean_loss(sums: Mapping[str, Any]) -> dict[str, float]:
    """`Model.metrics` of a family that has no metric but the loss.

    Example:
      >>> mean_loss({"loss_sum": 24.0, "count": 16})
      {'loss': 1.5}
    """
    return {"loss": float(sums["loss_sum"]) / float(sums["count"])}


class Family(Protocol):
    """Members of every family; `name` is part of run identities and of the results table.

    Two members are optional: `attention_head_dim` (read through the function of that name) and `unseen_flops_per_token`
    (see `scaling_jax.training.verify`).
    """

    @property
    def name(self) -> str:
        """Identifies the family; two families cannot share it."""
        ...

    @property
    def inputs(self) -> str:
        """The `Spec.kind` it trains on."""
        ...

    def check(self, width: int, depth: int, spec: Spec) -> None:
        """Raises ValueError, with the way out, when this scale cannot be built."""
        ...

    def counts(self, width: int, depth: int, spec: Spec) -> Counts:
        """Parameters and FLOPs in plain Python, no JAX."""
        ...

    def activation_bytes(self, width: int, depth: int, spec: Spec, batch_size: int, execution: Any) -> int:
        """Peak bytes of activations kept for the backward pass of one batch."""
        ...

    def build(self, width: int, depth: int, spec: Spec, scaling: Any, execution: Any) -> Model:
        """The scale as pure functions; `scaling` has the initial scales and rates, `execution` (resolved: nothing
        "auto") the compute_dtype, scan_layers, remat and attention."""
        ...


def attention_head_dim(family: Family) -> int | None:
    """Size of the family's attention heads, which decides the kernel; None for a family without attention."""
    return getattr(family, "attention_head_dim", None)


FAMILIES: dict[str, Any] = {}


def register(cls: type[F]) -> type[F]:
    """Class decorator that makes a family known by its `name`, so that a study read back from JSON can be rebuilt.

    Raises:
      TypeError: the class lacks a member of the protocol.
    """
    missing = [
        name for name in ("name", "inputs", "check", "counts", "activation_bytes", "build") if not hasattr(cls, name)
    ]
    if missing:
        raise TypeError(f"family {cls.__name__} has no {', '.join(missing)}; docs/families.md lists the members")
    FAMILIES[cls.name] = cls  # pyright: ignore[reportAttributeAccessIssue]
    return cls


def from_dict(options: Mapping[str, Any]) -> Family:
    """The family that `Study.to_dict()["family"]` describes.

    Raises:
      KeyError: no family of that name is registered.

    Example:
      >>> from scaling_jax import models
      >>> models.from_dict({"name": "transformer", "head_dim": 32}).head_dim
      32
    """
    options = dict(options)
    name = options.pop("name")
    if name not in FAMILIES:
        raise KeyError(f"family {name!r} is not registered; known: {', '.join(sorted(FAMILIES))}")
    return FAMILIES[name](**options)
