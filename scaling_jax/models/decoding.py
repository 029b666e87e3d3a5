"""The transformer a few tokens at a time, with a cache of keys and values: the same function as `Decoder`.

It reads the parameters of `transformer.Decoder`, scanned or not. What the cache holds beyond the position of a step is
never attended to, so a prompt may be padded.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from scaling_jax.models.family import Decoding
from scaling_jax.models.layers import linear, rms_norm

SPLIT = 3  # q, k and v


def make(decoder: Any, context: int, rotary: Any, activations: Mapping[str, Any]) -> Decoding:
    """Decoding with the parameters of a `transformer.Decoder`.

    Args:
      decoder: the module; its options, width, depth, scaling and dtype are read.
      context: positions of the cache.
      rotary, activations: of `transformer`.
    """
    options, M, H = decoder.options, decoder.width, decoder.options.head_dim
    N, taps = M // H, max(options.short_conv, 1)
    multiplier = decoder.scaling.branch_multiplier

    def start(params: Any, batch_size: int) -> Any:
        del params
        one = {
            "k": jnp.zeros((batch_size, context, N, H), decoder.dtype),
            "v": jnp.zeros((batch_size, context, N, H), decoder.dtype),
        }
        if options.short_conv:  # q, k and v before the convolution, with zeros before the first token
            one["qkv"] = jnp.zeros((batch_size, context + taps - 1, SPLIT * M), decoder.dtype)
        return [one] * decoder.depth

    def attend(q_BxTxNxH: Any, cache: Any, position: Any) -> Any:
        T = q_BxTxNxH.shape[1]
        scores_BxNxTxS = jnp.einsum(
            "btnh,bsnh->bnts", q_BxTxNxH * H**-0.5, cache["k"], preferred_element_type=jnp.float32
        )
        seen_TxS = position + jnp.arange(T)[:, None] >= jnp.arange(context)[None, :]
        weights_BxNxTxS = jax.nn.softmax(jnp.where(seen_TxS[None, None], scores_BxNxTxS, -1e30), axis=-1)
        return jnp.einsum("bnts,bsnh->btnh", weights_BxNxTxS.astype(q_BxTxNxH.dtype), cache["v"])

    def layer(p: Any, x_BxTxM: Any, cache: Any, position: Any) -> tuple[Any, Any]:
        B, T, _ = x_BxTxM.shape
        qkv_BxTxC = linear(rms_norm(x_BxTxM, p["attention_gain"]), p["qkv"])
        cache = dict(cache)
        if options.short_conv:
            cache["qkv"] = jax.lax.dynamic_update_slice_in_dim(cache["qkv"], qkv_BxTxC, position + taps - 1, 1)
            w_KxC = p["qkv_taps"].astype(qkv_BxTxC.dtype)
            back = [jax.lax.dynamic_slice_in_dim(cache["qkv"], position + taps - 1 - k, T, 1) for k in range(taps)]
            qkv_BxTxC = back[0] * w_KxC[None, :1]
            for k in range(1, taps):
                qkv_BxTxC += back[k] * w_KxC[None, k : k + 1]
        q_BxTxNxH, k_BxTxNxH, v_BxTxNxH = jnp.split(qkv_BxTxC.reshape(B, T, SPLIT * N, H), SPLIT, axis=2)
        q_BxTxNxH = rotary(rms_norm(q_BxTxNxH, p["q_gain"]), options.rope_base, position)
        k_BxTxNxH = rotary(rms_norm(k_BxTxNxH, p["k_gain"]), options.rope_base, position)
        for name, new_BxTxNxH in (("k", k_BxTxNxH), ("v", v_BxTxNxH)):
            cache[name] = jax.lax.dynamic_update_slice_in_dim(cache[name], new_BxTxNxH, position, 1)
        out_BxTxM = linear(attend(q_BxTxNxH, cache, position).reshape(B, T, M), p["out"])
        x_BxTxM = x_BxTxM + (out_BxTxM if multiplier is None else multiplier * out_BxTxM)
        h_BxTxF = activations[options.activation](linear(rms_norm(x_BxTxM, p["mlp_gain"]), p["up"]))
        out_BxTxM = linear(h_BxTxF, p["down"])
        return x_BxTxM + (out_BxTxM if multiplier is None else multiplier * out_BxTxM), cache

    def step(params: Any, cache: Any, tokens_BxT: Any, position: Any) -> tuple[Any, Any]:
        x_BxTxM, new = params["embed"][tokens_BxT].astype(decoder.dtype), []
        for i, one in enumerate(cache):
            stacked = params.get("layers")
            p = params[f"layer_{i}"] if stacked is None else jax.tree.map(lambda x, i=i: x[i], stacked)
            x_BxTxM, one = layer(p, x_BxTxM, one, position)
            new.append(one)
        x_BxTxM = rms_norm(x_BxTxM, params["final_gain"])
        head_MxV = params["head"].astype(decoder.dtype)
        return jnp.einsum("btm,mv->btv", x_BxTxM, head_MxV, preferred_element_type=jnp.float32), new

    return Decoding(start, step)


def from_logits(logits: Any, context: int) -> Decoding:
    """Decoding of any causal model of tokens, without a cache of its own: every step is a whole forward pass.

    Args:
      logits: (params, tokens [B, context]) -> [B, context, V]; causal.
      context: tokens of a sequence.
    """

    def start(params: Any, batch_size: int) -> Any:
        del params
        return jnp.zeros((batch_size, context), jnp.int32)

    def step(params: Any, cache: Any, tokens_BxT: Any, position: Any) -> tuple[Any, Any]:
        cache = jax.lax.dynamic_update_slice_in_dim(cache, tokens_BxT.astype(jnp.int32), position, 1)
        return jax.lax.dynamic_slice_in_dim(logits(params, cache), position, tokens_BxT.shape[1], 1), cache

    return Decoding(start, step)
