"""Residual convolutional networks for image classification, by width and depth.

Pre-activation blocks (He et al. 2016, arXiv:1603.05027) with GroupNorm and weight standardization, so that nothing
depends on the batch. A stem brings large images down to about 32 pixels; each of `stages` stages after the first
halves the picture and doubles the channels. The width is the channels of the first stage, the depth the blocks per
stage. B batch, H x W pixels, C channels, K classes.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from scaling_jax.models import accounting, classification, convolution
from scaling_jax.models.family import Counts, Model, Spec, register
from scaling_jax.models.parametrization import HIDDEN, INPUT, OUTPUT, VECTOR, Scaling, normal_init

TRUNK_PIXELS = 32  # the stem halves larger images while they stay at least this large


@register
@dataclasses.dataclass(frozen=True, kw_only=True)
class CNN:
    """Options of the family; `build` gives one scale.

    Attributes:
      stages: resolutions; a stage halves the picture of the one before and doubles its channels.
      group_size: channels per group of GroupNorm; the width must be a multiple of it.
      stem_stride: how much the stem shrinks the picture; None follows the image (1 up to 63 pixels, 2 up to 127, ...).
      label_smoothing: in the training loss only; validation is always on the plain cross-entropy.
    """

    name: ClassVar[str] = "cnn"
    inputs: ClassVar[str] = "images"

    stages: int = 3
    group_size: int = 8
    stem_stride: int | None = None
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        for field in ("stages", "group_size"):
            if getattr(self, field) <= 0:
                raise ValueError(f"{field} {getattr(self, field)} must be positive")
        if self.stem_stride is not None and self.stem_stride <= 0:
            raise ValueError(f"stem_stride {self.stem_stride} must be positive, or None to follow the image")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing {self.label_smoothing} must be in [0, 1)")

    def check(self, width: int, depth: int, spec: Spec) -> None:
        """Raises ValueError when this scale cannot be built."""
        if width % self.group_size:
            raise ValueError(
                f"width {width} is not divisible by group_size {self.group_size}; "
                f"take a multiple, or set family.group_size to a divisor of {width}"
            )
        smallest = min(spec.image[:2])
        if smallest < self.stride(spec) * 2 ** (self.stages - 1):
            raise ValueError(
                f"{self.stages} stages shrink an image of {spec.image[0]}x{spec.image[1]} to nothing; "
                "lower family.stages or family.stem_stride"
            )

    def stride(self, spec: Spec) -> int:
        """The stem's stride on these images."""
        return self.stem_stride or max(1, 2 ** int(math.log2(max(1, min(spec.image[:2]) // TRUNK_PIXELS))))

    def counts(self, width: int, depth: int, spec: Spec) -> Counts:
        """Parameters and exact training FLOPs per image, zero padding counted.

        A convolution uses each weight once per pixel, so the FLOPs are far above 6 N.
        """
        weights = vectors = forward = 0
        for i, (rows, columns, kernel, inputs, outputs) in enumerate(self._convolutions(width, depth, spec)):
            weights += kernel * kernel * inputs * outputs
            flops = accounting.conv_flops(rows, columns, kernel, inputs, outputs)
            # The stem's inputs are pixels: they take no gradient.
            forward += flops * (1 - 1 / accounting.TRAIN_FACTOR) if i == 0 else flops
            vectors += 2 * inputs if i and kernel > 1 else 0  # a norm precedes every 3x3
        channels = width * 2 ** (self.stages - 1)
        head = channels * spec.vocab_size
        non_embedding = weights + vectors + 2 * channels
        return Counts(
            params_total=non_embedding + head,
            params_non_embedding=non_embedding,
            params_matmul=non_embedding + head,
            flops_per_token=accounting.training_flops(forward + accounting.matmul_flops(head)),
        )

    def activation_bytes(self, width: int, depth: int, spec: Spec, batch_size: int, execution: Any) -> int:
        """Estimated peak bytes of activations of one batch, about XLA's own figure; `execution` is resolved."""
        size = jnp.dtype(execution.compute_dtype).itemsize
        gathers = convolution.pick(jax.default_backend()) == "planes"
        # Kept per convolution: the windows it multiplied, or its input with what its norm and ReLU need.
        kept = [
            rows * columns * (kernel**2 * inputs * 1.3 if gathers and kernel > 1 else 3 * outputs)
            for rows, columns, kernel, inputs, outputs in self._convolutions(width, depth, spec)
        ]
        if execution.remat:  # the blocks' inputs, and one block of the first stage while it is recomputed
            rows, columns = (-(-pixels // self.stride(spec)) for pixels in spec.image[:2])
            inputs = sum(depth * rows * columns * width / 2**stage for stage in range(self.stages))
            return int(batch_size * size * (inputs + 2 * sum(kept[:3])))
        return int(batch_size * size * sum(kept))

    def build(self, width: int, depth: int, spec: Spec, scaling: Scaling, execution: Any) -> Model:
        """One scale as pure functions; `execution` is resolved (nothing "auto")."""
        self.check(width, depth, spec)
        module = ResNet(
            options=self,
            width=width,
            depth=depth,
            num_classes=spec.vocab_size,
            stem_stride=self.stride(spec),
            scaling=scaling,
            dtype=jnp.dtype(execution.compute_dtype),
            scan_layers=execution.scan_layers,
            remat=execution.remat,
            convolution=convolution.pick(jax.default_backend()),
        )
        example = jnp.zeros((1, *spec.image), jnp.float32)
        shapes = jax.eval_shape(module.init, jax.random.key(0), example)["params"]
        rules = scaling.array_rules(shapes, role_of, in_branch)

        def init(key):
            return module.init(key, example)["params"]

        def logits(params, image_BxHxWxC):
            return module.apply({"params": params}, image_BxHxWxC)

        functions = classification.functions(logits, self.label_smoothing)
        return Model(init=init, **functions, **rules)

    def _convolutions(self, width: int, depth: int, spec: Spec) -> Iterator[tuple[int, int, int, int, int]]:
        """(output rows, output columns, kernel, inputs, outputs) of every convolution, the stem first."""
        stride = self.stride(spec)
        rows, columns = (-(-size // stride) for size in spec.image[:2])
        yield rows, columns, stem_kernel(stride), spec.image[2], width
        channels = width
        for stage in range(self.stages):
            for block in range(depth):
                inputs = channels
                if stage and not block:
                    rows, columns, channels = -(-rows // 2), -(-columns // 2), 2 * channels
                    yield rows, columns, 1, inputs, channels
                yield rows, columns, 3, inputs, channels
                yield rows, columns, 3, channels, channels


def stem_kernel(stride: int) -> int:
    """Windows that overlap by half: 3 up to stride 2, 7 at stride 4."""
    return max(3, 2 * stride - 1)


def role_of(path: tuple[str, ...]) -> str:
    """The parametrization's role of the array at this path."""
    if path[-1].endswith(("gain", "bias")):
        return VECTOR
    return {"stem": INPUT, "head": OUTPUT}.get(path[-1], HIDDEN)


def in_branch(path: tuple[str, ...]) -> bool:
    """True for arrays of residual branches."""
    return path[0].startswith("stage") and path[-1] != "shortcut"


class Layers(nn.Module):
    """Shared by blocks and network: convolutions with standardized weights, and norms followed by ReLU.

    Activations are laid out as the implementation of `convolution` wants them.
    """

    options: CNN
    scaling: Scaling
    dtype: Any
    convolution: str

    def conv(self, name: str, x: Any, channels: int, kernel: int, stride: int = 1, role: str = HIDDEN) -> Any:
        shape = (kernel, kernel, convolution.channels(x, self.convolution), channels)
        std = self.scaling.std(role, math.prod(shape[:3]))
        w_KxKxCxO = convolution.standardize(self.param(name, normal_init(std), shape, jnp.float32))
        return convolution.conv2d(x, w_KxKxCxO, stride, self.convolution)

    def norm_relu(self, name: str, x: Any) -> Any:
        C = convolution.channels(x, self.convolution)
        gain_C = self.param(f"{name}_gain", nn.initializers.ones, (C,), jnp.float32)
        bias_C = self.param(f"{name}_bias", nn.initializers.zeros, (C,), jnp.float32)
        return jax.nn.relu(convolution.group_norm(x, gain_C, bias_C, self.options.group_size, self.convolution))


class Block(Layers):
    """shortcut(x) + branch * conv(norm(conv(norm(x)))), with two 3x3 convolutions."""

    channels: int
    stride: int
    branch: float

    @nn.compact
    def __call__(self, x: Any) -> Any:
        h = self.norm_relu("norm1", x)
        if self.stride > 1:
            x = self.conv("shortcut", h, self.channels, 1, self.stride)
        h = self.conv("conv1", h, self.channels, 3, self.stride)
        h = self.conv("conv2", self.norm_relu("norm2", h), self.channels, 3)
        return x + self.branch * h


class ResNet(Layers):
    """Images [B, H, W, C] -> logits [B, K] in float32."""

    width: int
    depth: int
    num_classes: int
    stem_stride: int
    scan_layers: bool
    remat: bool

    @nn.compact
    def __call__(self, image_BxHxWxC: Any) -> Any:
        kind = nn.remat(Block, prevent_cse=not self.scan_layers) if self.remat else Block
        # At initialization blocks add up to the variance of one, whatever the depth; under CompleteP at its base depth.
        multiplier = self.scaling.branch_multiplier
        if multiplier is None:
            branch = 1 / math.sqrt(self.depth * self.options.stages)
        else:
            branch = multiplier / math.sqrt(self.scaling.base_depth * self.options.stages)

        def block(name, channels, stride):
            fields = (self.options, self.scaling, self.dtype, self.convolution)
            return kind(*fields, channels=channels, stride=stride, branch=branch, name=name)

        stem = (self.width, stem_kernel(self.stem_stride), self.stem_stride, INPUT)
        x = self.conv("stem", convolution.arrange(image_BxHxWxC.astype(self.dtype), self.convolution), *stem)
        for stage in range(self.options.stages):
            channels = self.width * 2**stage
            x = block(f"stage{stage}_block0", channels, 2 if stage else 1)(x)
            if self.scan_layers and self.depth > 1:
                stack = nn.scan(
                    lambda module, x, _: (module(x), None),
                    variable_axes={"params": 0},
                    split_rngs={"params": True},
                    length=self.depth - 1,
                )
                x, _ = stack(block(f"stage{stage}_blocks", channels, 1), x, None)
            else:
                for i in range(1, self.depth):
                    x = block(f"stage{stage}_block{i}", channels, 1)(x)
        x_BxC = convolution.mean_pixel(self.norm_relu("final", x), self.convolution)
        C = x_BxC.shape[-1]
        head_CxK = self.param("head", normal_init(self.scaling.std(OUTPUT, C)), (C, self.num_classes), jnp.float32)
        return x_BxC @ head_CxK
