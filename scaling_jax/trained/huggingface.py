"""Our transformer in the layout of Hugging Face's Qwen3, which computes the same function.

Both are pre-norm with RMSNorm, rotary positions that turn (x_i, x_{i+H/2}), RMSNorm of every query and key, no biases
and an untied head. Qwen3's MLP is gated, act(gate x) * (up x): with act = ReLU and gate = up it is the squared ReLU.
CompleteP's factor on branches goes into their last matrices. GELU and the short convolution have no counterpart.
"""

from __future__ import annotations

import json
from typing import Any

import jax
import numpy as np
from safetensors.numpy import save

from scaling_jax.data import tokenizers
from scaling_jax.models.layers import NORM_EPSILON
from scaling_jax.storage.paths import write_atomic
from scaling_jax.trained.models import TrainedModel
from scaling_jax.training.scale import scaling_of

ARCHITECTURE = "Qwen3ForCausalLM"


def mismatch(trained: TrainedModel) -> str:
    """The reason that no architecture of `transformers` computes this model; empty where one does."""
    family = trained.study.family
    if family.name != "transformer":
        return f"no architecture for family {family.name!r}"
    if family.short_conv:
        return "family.short_conv has no counterpart (0 does)"
    return "" if family.activation == "relu2" else f"family.activation={family.activation} has no counterpart"


def write(trained: TrainedModel, folder: Any, tokenizer: str | None) -> None:
    """Writes config.json, model.safetensors and, where there is one, the tokenizer."""
    folder.mkdir()
    write_atomic(folder / "model.safetensors", save(weights(trained), metadata={"format": "pt"}))
    write_atomic(folder / "config.json", json.dumps(config(trained), indent=1) + "\n")
    if tokenizer is not None:
        write_atomic(folder / "tokenizer.json", tokenizer)
        kind = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": trained.spec.context}
        write_atomic(folder / "tokenizer_config.json", json.dumps(kind) + "\n")


def config(trained: TrainedModel) -> dict[str, Any]:
    """Qwen3's configuration."""
    family, width, depth = trained.study.family, trained.row["width"], trained.row["depth"]
    heads = width // family.head_dim
    return {
        "architectures": [ARCHITECTURE],
        "model_type": "qwen3",
        "vocab_size": trained.spec.vocab_size,
        "hidden_size": width,
        "intermediate_size": family.mlp_ratio * width,
        "num_hidden_layers": depth,
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "head_dim": family.head_dim,
        "hidden_act": "relu",
        "max_position_embeddings": trained.spec.context,
        "rms_norm_eps": NORM_EPSILON,
        "rope_theta": family.rope_base,
        "rope_parameters": {"rope_type": "default", "rope_theta": family.rope_base},
        "attention_bias": False,
        "tie_word_embeddings": False,
        "bos_token_id": None,
        "eos_token_id": 0 if trained.spec.vocab_size == 256 else None,
        "torch_dtype": "float32",
    }


def weights(trained: TrainedModel) -> dict[str, np.ndarray]:
    """Parameters under Qwen3's names; its matrices are [outputs, inputs]."""
    params, row = jax.tree.map(np.asarray, trained.params), trained.row
    scaling = scaling_of(trained.study, row["width"], row["depth"])
    branch = 1.0 if scaling.branch_multiplier is None else scaling.branch_multiplier
    out = {
        "model.embed_tokens.weight": params["embed"],
        "model.norm.weight": params["final_gain"],
        "lm_head.weight": params["head"].T,
    }
    for i in range(row["depth"]):
        layer = jax.tree.map(lambda x, i=i: x[i], params["layers"]) if "layers" in params else params[f"layer_{i}"]
        q, k, v = np.split(layer["qkv"], 3, axis=1)
        names = {
            "input_layernorm": layer["attention_gain"],
            "self_attn.q_proj": q.T,
            "self_attn.k_proj": k.T,
            "self_attn.v_proj": v.T,
            "self_attn.o_proj": branch * layer["out"].T,
            "self_attn.q_norm": layer["q_gain"],
            "self_attn.k_norm": layer["k_gain"],
            "post_attention_layernorm": layer["mlp_gain"],
            "mlp.gate_proj": layer["up"].T,
            "mlp.up_proj": layer["up"].T,
            "mlp.down_proj": branch * layer["down"].T,
        }
        out |= {f"model.layers.{i}.{name}.weight": array for name, array in names.items()}
    return {name: np.ascontiguousarray(array, np.float32) for name, array in out.items()}


def tokenizer_json(tokenizer: Any) -> str | None:
    """A tokenizer.json of the `tokenizers` library; None for data that were tokens and for sentencepiece."""
    if isinstance(tokenizer, tokenizers.Fast):
        return tokenizer.text
    if not isinstance(tokenizer, tokenizers.Bytes):
        return None
    vocab = {letter: byte for byte, letter in _letters().items()}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    content = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None,
        "pre_tokenizer": level, "post_processor": None, "decoder": level,
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
            "vocab": vocab, "merges": [],
        },
    }  # fmt: skip
    return json.dumps(content)


def _letters() -> dict[int, str]:
    """Byte -> the letter that byte-level tokenizers write for it (GPT-2): itself where printable, else 256, 257, ..."""
    plain = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAC + 1), *range(0xAE, 0xFF + 1)]
    others = [byte for byte in range(256) if byte not in plain]
    return {byte: chr(byte) for byte in plain} | {byte: chr(256 + i) for i, byte in enumerate(others)}
