"""Decoder-only transformer language models by width and depth.

Pre-norm (RMSNorm), rotary positions, QK-norm, causal attention with heads of a fixed size, an MLP of `mlp_ratio` x the
width, and an untied output head. Arrays carry their shape in their name: B batch, T tokens, M width, N heads,
H head_dim, F mlp width, V vocabulary.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from scaling_jax.models import accounting, attention, decoding, metrics, partition
from scaling_jax.models.family import Counts, Model, Spec, register
from scaling_jax.models.layers import embed, linear, rms_norm
from scaling_jax.models.parametrization import EMBEDDING, HIDDEN, OUTPUT, SCALAR, VECTOR, Scaling, normal_init

LOGITS_CHUNK_BYTES = 64 * 2**20  # float32 logits held at once


@register
@dataclasses.dataclass(frozen=True, kw_only=True)
class Transformer:
    """Options of the family; `build` gives one scale.

    Attributes:
      head_dim: size of every head; the width must be a multiple of it.
      mlp_ratio: hidden width of the MLP over the width.
      activation: "relu2" (squared ReLU: as good as GELU, Primer, arXiv:2109.08668, and twice as fast on CPU), "gelu".
      rope_base: wavelength base of the rotary positions (RoFormer, arXiv:2104.09864).
      short_conv: taps of a causal depthwise convolution over the tokens of q, k and v (Primer, arXiv:2109.08668), the
        identity at the start; 0 has none. Three taps let in-context copying appear earlier, which lowers the loss of
        small models and its scatter between seeds.
    """

    name: ClassVar[str] = "transformer"
    inputs: ClassVar[str] = "tokens"

    head_dim: int = 32
    mlp_ratio: int = 4
    activation: str = "relu2"
    rope_base: float = 10_000.0
    short_conv: int = 0

    def __post_init__(self) -> None:
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"activation {self.activation!r} is not one of {', '.join(ACTIVATIONS)}")
        if self.head_dim <= 0 or self.head_dim % 2:
            raise ValueError(f"head_dim {self.head_dim} must be positive and even (rotary positions turn pairs)")
        if self.mlp_ratio <= 0:
            raise ValueError(f"mlp_ratio {self.mlp_ratio} must be positive")
        if not 1 < self.rope_base < math.inf:
            raise ValueError(f"rope_base {self.rope_base} must be a finite number above 1, e.g. 10000")
        if self.short_conv < 0:
            raise ValueError(f"short_conv {self.short_conv} must be 0 (none) or a number of taps, e.g. 3")

    @property
    def attention_head_dim(self) -> int:
        """Size of every attention head."""
        return self.head_dim

    def check(self, width: int, depth: int, spec: Spec) -> None:
        """Raises ValueError when this scale cannot be built."""
        if width % self.head_dim:
            raise ValueError(
                f"width {width} is not divisible by head_dim {self.head_dim}; "
                f"take a multiple, or set family.head_dim to a divisor of {width}"
            )

    def counts(self, width: int, depth: int, spec: Spec, causal: bool = True) -> Counts:
        """Parameters and exact training FLOPs per token; `causal=False` counts attention's full square."""
        M, F, V = width, self.mlp_ratio * width, spec.vocab_size
        layer_matmul = M * 3 * M + M * M + M * F + F * M  # qkv, out, up, down
        # Two norms, gains of the QK-norm, taps of the short convolution.
        layer_vectors = 2 * M + 2 * self.head_dim + 3 * self.short_conv * M
        non_embedding = depth * (layer_matmul + layer_vectors) + M
        forward = accounting.matmul_flops(depth * layer_matmul + M * V)
        forward += depth * (accounting.attention_flops(spec.context, M, causal) + self._short_conv_flops(M))
        return Counts(
            params_total=non_embedding + 2 * V * M,
            params_non_embedding=non_embedding,
            params_matmul=non_embedding + M * V,
            flops_per_token=accounting.training_flops(forward),
        )

    def unseen_flops_per_token(self, width: int, depth: int, spec: Spec) -> float:
        """FLOPs of the masked scores, which attention by XLA computes and `counts` leaves out, less those of the short
        convolution, which are counted and are not matmuls."""
        square = accounting.attention_flops(spec.context, width, causal=False)
        needed = accounting.attention_flops(spec.context, width, causal=True)
        return accounting.training_flops(depth * (square - needed - self._short_conv_flops(width)))

    def _short_conv_flops(self, width: int) -> int:
        """Forward FLOPs per token and layer."""
        return 2 * 3 * self.short_conv * width

    def activation_bytes(self, width: int, depth: int, spec: Spec, batch_size: int, execution: Any) -> int:
        """Estimated peak bytes of activations of one batch, beside XLA's own in benchmarks/memory.md; `execution` is
        resolved."""
        M, F, T = width, self.mlp_ratio * width, spec.context
        size = jnp.dtype(execution.compute_dtype).itemsize
        # Kept for the backward pass: inputs and outputs of norms, products and rotations, the MLP before and after.
        kept, live = (
            (15 + 3 * bool(self.short_conv)) * M + 2 * F,
            2 * F + 7 * M,
        )  # live: gradients within the layer that is differentiated
        if execution.attention in ("xla", "blocked"):  # scores before and after softmax; the kernels never hold them
            share = attention.scores_share(execution.attention)
            kept += 2 * share * T * (M // self.head_dim)
            live += T * (M // self.head_dim) / (attention.NUM_QUERY_BLOCKS if execution.attention == "blocked" else 1)
        layers = depth * M + kept + live if execution.remat else depth * kept + live
        logits = 3 * min(LOGITS_CHUNK_BYTES, 4 * batch_size * T * spec.vocab_size)
        return int(batch_size * T * size * layers) + logits

    def build(self, width: int, depth: int, spec: Spec, scaling: Scaling, execution: Any) -> Model:
        """One scale as pure functions; `execution` is resolved (nothing "auto")."""
        self.check(width, depth, spec)
        module = Decoder(
            options=self,
            width=width,
            depth=depth,
            vocab_size=spec.vocab_size,
            scaling=scaling,
            dtype=jnp.dtype(execution.compute_dtype),
            scan_layers=execution.scan_layers,
            remat=execution.remat,
            attention=execution.attention,
        )
        example = jnp.zeros((1, spec.context), jnp.int32)
        shapes = jax.eval_shape(module.init, jax.random.key(0), example)["params"]
        rules = scaling.array_rules(shapes, role_of, in_branch=lambda path: path[0].startswith("layer"))

        def init(key):
            return module.init(key, example)["params"]

        def nats(params, batch_BxT1):
            x_BxTxM, head_MxV = module.apply({"params": params}, batch_BxT1[:, :-1])
            return summed_cross_entropy(x_BxTxM, head_MxV, batch_BxT1[:, 1:]), batch_BxT1[:, 1:].size

        def loss(params, batch_BxT1):
            total, count = nats(params, batch_BxT1)
            return total / count, {}

        def evaluate(params, batch_BxT1):
            x_BxTxM, head_MxV = module.apply({"params": params}, batch_BxT1[:, :-1])
            return summed_scores(x_BxTxM, head_MxV, batch_BxT1[:, 1:])

        def logits(params, tokens_BxT):
            x_BxTxM, head_MxV = module.apply({"params": params}, tokens_BxT)
            return jnp.einsum("btm,mv->btv", x_BxTxM, head_MxV, preferred_element_type=jnp.float32)

        steps = decoding.make(module, spec.context, rotary, ACTIVATIONS)
        return Model(
            init=init, loss=loss, evaluate=evaluate, metrics=token_metrics, logits=logits, decoding=steps, **rules
        )


def relu2(x: Any) -> Any:
    """Squared ReLU."""
    return jnp.square(jax.nn.relu(x))


ACTIVATIONS = {"relu2": relu2, "gelu": jax.nn.gelu}


ROLES = {
    "embed": EMBEDDING,
    "head": OUTPUT,
    **dict.fromkeys(("attention_gain", "mlp_gain", "final_gain", "qkv_taps"), VECTOR),
    **dict.fromkeys(("q_gain", "k_gain"), SCALAR),  # shared by all heads
}


def role_of(path: tuple[str, ...]) -> str:
    """The parametrization's role of the array at this path."""
    return ROLES.get(path[-1], HIDDEN)


def identity_taps(key: Any, shape: tuple[int, int], dtype: Any) -> Any:
    """[taps, channels]: one on the token itself, zero on those before it."""
    del key
    return jnp.zeros(shape, dtype).at[0].set(1)


def short_convolution(x_BxTxC: Any, w_KxC: Any) -> Any:
    """y_t = sum_k w_k x_(t-k) per channel, with zeros before the first token."""
    T, w_KxC = x_BxTxC.shape[1], w_KxC.astype(x_BxTxC.dtype)
    out_BxTxC = x_BxTxC * w_KxC[None, :1]
    for k in range(1, len(w_KxC)):
        out_BxTxC += jnp.pad(x_BxTxC, ((0, 0), (k, 0), (0, 0)))[:, :T] * w_KxC[None, k : k + 1]
    return out_BxTxC


def rotary(x_BxTxNxH: Any, base: float, start: Any = 0) -> Any:
    """Turns pairs (x_i, x_{i+H/2}) of position t by t * base^(-2i/H); the first token has position `start`."""
    _, T, _, H = x_BxTxNxH.shape
    frequency_K = base ** (-jnp.arange(H // 2) * 2.0 / H)
    angle_1xTx1xK = (start + jnp.arange(T))[None, :, None, None] * frequency_K[None, None, None]
    cos_1xTx1xK, sin_1xTx1xK = (f(angle_1xTx1xK).astype(x_BxTxNxH.dtype) for f in (jnp.cos, jnp.sin))
    a, b = jnp.split(x_BxTxNxH, 2, axis=-1)
    return jnp.concatenate([a * cos_1xTx1xK - b * sin_1xTx1xK, b * cos_1xTx1xK + a * sin_1xTx1xK], axis=-1)


class Block(nn.Module):
    """One pre-norm layer: x + attention(norm(x)), then x + mlp(norm(x))."""

    options: Transformer
    width: int
    depth: int
    scaling: Scaling
    dtype: Any
    attention: str

    @nn.compact
    def __call__(self, x_BxTxM):
        M, H, F = self.width, self.options.head_dim, self.options.mlp_ratio * self.width
        B, T, _ = x_BxTxM.shape
        multiplier = self.scaling.branch_multiplier
        # The residual stream must not grow with depth: small initial branches, or CompleteP's factor on each.
        init_factor = 1 / math.sqrt(2 * self.depth) if multiplier is None else 1.0

        def matrix(name, rows, columns, factor=1.0):
            std = factor * self.scaling.std(HIDDEN, rows)
            return self.param(name, normal_init(std), (rows, columns), jnp.float32)

        def branch(x_BxTxM):
            return x_BxTxM if multiplier is None else multiplier * x_BxTxM

        def gain(name, size):
            return self.param(name, nn.initializers.ones, (size,), jnp.float32)

        h_BxTxM = rms_norm(x_BxTxM, gain("attention_gain", M))
        qkv_BxTxC = linear(h_BxTxM, matrix("qkv", M, 3 * M))
        if taps := self.options.short_conv:
            qkv_BxTxC = short_convolution(qkv_BxTxC, self.param("qkv_taps", identity_taps, (taps, 3 * M), jnp.float32))
        qkv_BxTx3NxH = qkv_BxTxC.reshape(B, T, 3 * (M // H), H)
        q_BxTxNxH, k_BxTxNxH, v_BxTxNxH = jnp.split(qkv_BxTx3NxH, 3, axis=2)
        q_BxTxNxH = rotary(rms_norm(q_BxTxNxH, gain("q_gain", H)), self.options.rope_base)
        k_BxTxNxH = rotary(rms_norm(k_BxTxNxH, gain("k_gain", H)), self.options.rope_base)
        out_BxTxM = attention.causal_attention(q_BxTxNxH, k_BxTxNxH, v_BxTxNxH, self.attention).reshape(B, T, M)
        x_BxTxM += branch(linear(out_BxTxM, matrix("out", M, M, init_factor)))

        h_BxTxM = rms_norm(x_BxTxM, gain("mlp_gain", M))
        h_BxTxF = ACTIVATIONS[self.options.activation](linear(h_BxTxM, matrix("up", M, F)))
        return partition.split_batch(x_BxTxM + branch(linear(h_BxTxF, matrix("down", F, M, init_factor))))


class Decoder(nn.Module):
    """Tokens [B, T] -> (final activations [B, T, M], head [M, V]); the loss multiplies them in chunks."""

    options: Transformer
    width: int
    depth: int
    vocab_size: int
    scaling: Scaling
    dtype: Any
    scan_layers: bool
    remat: bool
    attention: str

    @nn.compact
    def __call__(self, tokens_BxT):
        M, V = self.width, self.vocab_size
        embed_VxM = self.param("embed", normal_init(self.scaling.std(EMBEDDING, V)), (V, M), jnp.float32)
        x_BxTxM = partition.split_batch(embed(embed_VxM, tokens_BxT).astype(self.dtype))
        block = nn.remat(Block, prevent_cse=not self.scan_layers) if self.remat else Block
        fields = (self.options, M, self.depth, self.scaling, self.dtype, self.attention)
        # Explicit names: Linen's automatic ones change under scan and remat, and old checkpoints would not load.
        if self.scan_layers:
            stack = nn.scan(
                lambda module, x, _: (module(x), None),
                variable_axes={"params": 0},
                split_rngs={"params": True},
                length=self.depth,
            )
            x_BxTxM, _ = stack(block(*fields, name="layers"), x_BxTxM, None)
        else:
            for i in range(self.depth):
                x_BxTxM = block(*fields, name=f"layer_{i}")(x_BxTxM)
        x_BxTxM = rms_norm(x_BxTxM, self.param("final_gain", nn.initializers.ones, (M,), jnp.float32))
        head_MxV = self.param("head", normal_init(self.scaling.std(OUTPUT, M)), (M, V), jnp.float32)
        return x_BxTxM, head_MxV.astype(self.dtype)


def summed_cross_entropy(x_BxTxM: Any, head_MxV: Any, targets_BxT: Any) -> Any:
    """Sum of -ln softmax(x head)[target] in float32, over chunks of tokens so that logits never dominate memory."""
    if _num_chunks(x_BxTxM, head_MxV) == 1:
        return _nats(_logits(x_BxTxM, head_MxV), targets_BxT.reshape(-1))
    # Recomputed in the backward pass: one chunk of logits is all that ever lives.
    body = jax.checkpoint(lambda x_BxCxM, targets_BxC: _nats(_logits(x_BxCxM, head_MxV), targets_BxC.reshape(-1)))
    chunks = _chunks(x_BxTxM, head_MxV, targets_BxT)
    total, _ = jax.lax.scan(lambda s, c: (s + body(*c), None), jnp.float32(0), chunks)
    return total


def summed_scores(x_BxTxM: Any, head_MxV: Any, targets_BxT: Any) -> dict[str, Any]:
    """Sums over a batch of the cross-entropy and of the registered metrics, over the same chunks."""

    def sums_of(chunk):
        logits_RxV, targets_R = _logits(chunk[0], head_MxV), chunk[1].reshape(-1)
        return {"loss_sum": _nats(logits_RxV, targets_R), **metrics.sums_of("tokens", logits_RxV, targets_R)}

    sums = jax.lax.map(sums_of, _chunks(x_BxTxM, head_MxV, targets_BxT))
    return {"count": jnp.int32(targets_BxT.size), **jax.tree.map(lambda x: jnp.sum(x, axis=0), sums)}


def _logits(x_BxCxM: Any, head_MxV: Any) -> Any:
    """[B x C, V] in float32."""
    x_RxM = x_BxCxM.reshape(-1, x_BxCxM.shape[-1])
    return jnp.einsum("rm,mv->rv", x_RxM, head_MxV, preferred_element_type=jnp.float32)


def _nats(logits_RxV: Any, targets_R: Any) -> Any:
    picked_R = jnp.take_along_axis(logits_RxV, targets_R[:, None], axis=-1)[:, 0]
    return jnp.sum(jax.nn.logsumexp(logits_RxV, axis=-1) - picked_R)


def _chunks(x_BxTxM: Any, head_MxV: Any, targets_BxT: Any) -> tuple[Any, Any]:
    """[K, B, C, M] and [K, B, C]: along T, since B is what devices split."""
    (B, T, M), K = x_BxTxM.shape, _num_chunks(x_BxTxM, head_MxV)
    x_BxKxCxM, targets_BxKxC = x_BxTxM.reshape(B, K, T // K, M), targets_BxT.reshape(B, K, T // K)
    return x_BxKxCxM.swapaxes(0, 1), targets_BxKxC.swapaxes(0, 1)


def _num_chunks(x_BxTxM: Any, head_MxV: Any) -> int:
    """The fewest equal chunks of the tokens whose logits fit LOGITS_CHUNK_BYTES."""
    B, T, _ = x_BxTxM.shape
    wanted = -(-T * 4 * head_MxV.shape[1] * -(-B // partition.num_parts()) // LOGITS_CHUNK_BYTES)
    return next(k for k in range(max(1, wanted), T + 1) if T % k == 0)


def token_metrics(sums: Mapping[str, Any]) -> dict[str, float]:
    """`Model.metrics` of token models."""
    return metrics.values("tokens", sums)
