"""Counting rules shared by families; each family counts itself beside its definition.

Conventions, in plain Python integers:
  * a matmul of [m, k] x [k, n] is 2 m k n FLOPs; elementwise work, norms and softmax are not counted;
  * the backward pass of a matmul costs two of the same size, so training is 3 x forward; recomputation under remat
    is not counted (it is not a model FLOP);
  * causal attention counts the pairs that are needed: position t attends to t + 1 keys, (T + 1) / 2 on average.
    `causal=False` counts the full square, as an unmasked kernel (and XLA's cost analysis) does.
"""

from __future__ import annotations

TRAIN_FACTOR = 3  # forward + gradient by input + gradient by weight


def matmul_flops(weights: int) -> int:
    """Forward FLOPs per row of a matmul with a weight of this many entries."""
    return 2 * weights


def attention_flops(context: int, width: int, causal: bool = True) -> float:
    """Forward FLOPs per token of one layer's scores and weighted sum, all heads together.

    Args:
      context: T, tokens per sequence.
      width: heads x head_dim.
      causal: count only keys at or before each query.
    """
    keys = (context + 1) / 2 if causal else context
    return 2 * 2 * keys * width


def conv_flops(height: int, width: int, kernel: int, in_channels: int, out_channels: int) -> int:
    """Forward FLOPs per image of a `kernel` x `kernel` convolution with [height, width] outputs, padding counted."""
    return 2 * height * width * kernel * kernel * in_channels * out_channels


def training_flops(forward: float) -> float:
    """Training FLOPs from forward FLOPs."""
    return TRAIN_FACTOR * forward
