"""A trained model in files that other software reads, without this package.

out/
  model.safetensors   parameters by name, float32
  config.json         family, sizes, what the inputs and outputs are, the run
  tokenizer.json      of the `tokenizers` library (text)
  forward.jaxexport   the forward pass, `jax.export`, for cpu, cuda and tpu: (parameters by name, inputs) -> logits
  transformers/       the same model for Hugging Face's `transformers`, where one of its architectures matches
"""

from __future__ import annotations

import json
from typing import Any

import flatbuffers  # noqa: F401  jax.export writes with it: missed before anything is written
import jax
import jax.export
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import save

from scaling_jax.errors import UserError
from scaling_jax.storage.paths import as_path, write_atomic
from scaling_jax.trained import huggingface
from scaling_jax.trained.models import Models, TrainedModel, need_logits
from scaling_jax.training.feed import PIXEL_MEAN, PIXEL_STD

PLATFORMS = ("cpu", "cuda", "tpu")
FORMAT = 1


def export(models: Models, trained: TrainedModel, out: Any) -> str:
    """Writes a model.

    Args:
      models: of its workdir.
      trained: the model.
      out: a folder that is new or empty, local or gs://.

    Returns:
      A line for every file, and why there is no `transformers` layout where there is none.

    Raises:
      UserError: the folder cannot be used, or the family gives no logits.
    """
    function = need_logits(models.model(trained.row["width"], trained.row["depth"], attention="xla"), trained.study)
    folder = as_path(out)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"--out={str(out)!r} exists and is not an empty folder: give a new one")
    folder.mkdir(parents=True, exist_ok=True)
    params = flat(trained.params)
    write_atomic(folder / "model.safetensors", save(params))
    write_atomic(folder / "forward.jaxexport", serialized(function, trained))
    write_atomic(folder / "config.json", json.dumps(config(trained), indent=1) + "\n")
    lines = ["model.safetensors", "forward.jaxexport (cpu, cuda, tpu)", "config.json"]
    text = huggingface.tokenizer_json(models.tokenizer) if trained.spec.kind == "tokens" else None
    if text is not None:
        write_atomic(folder / "tokenizer.json", text)
        lines.append("tokenizer.json")
    why_not = huggingface.mismatch(trained)
    if why_not:
        lines.append(f"no transformers/: {why_not}")
    else:
        huggingface.write(trained, folder / "transformers", text)
        lines.append("transformers/ (Qwen3ForCausalLM)")
    return "\n".join(f"  {line}" for line in lines)


def flat(params: Any) -> dict[str, np.ndarray]:
    """Arrays by their path in the pytree, joined by dots."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {name(path): np.ascontiguousarray(np.asarray(leaf)) for path, leaf in leaves}


def name(path: Any) -> str:
    """A path in a pytree as a name: layer_0.qkv."""
    return ".".join(str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))) for k in path)


def serialized(function: Any, trained: TrainedModel) -> bytes:
    """The forward pass of any batch size as `jax.export` writes it, for all platforms."""
    tree = jax.tree.structure(trained.params)
    names = [name(path) for path, _ in jax.tree_util.tree_leaves_with_path(trained.params)]

    def forward(params: dict[str, Any], inputs: Any) -> Any:
        if trained.spec.kind == "images":
            inputs = (inputs.astype(jnp.float32) / 255.0 - PIXEL_MEAN) / PIXEL_STD
        return function(jax.tree.unflatten(tree, [params[name] for name in names]), inputs)

    shape, kind = (trained.spec.context,), jnp.int32
    if trained.spec.kind == "images":
        shape, kind = trained.spec.image, jnp.uint8
    (batch,) = jax.export.symbolic_shape("b")
    arguments = (
        {k: jax.ShapeDtypeStruct(x.shape, x.dtype) for k, x in flat(trained.params).items()},
        jax.ShapeDtypeStruct((batch, *shape), kind),
    )
    return bytes(jax.export.export(jax.jit(forward), platforms=PLATFORMS)(*arguments).serialize())


def config(trained: TrainedModel) -> dict[str, Any]:
    """What a reader of the files needs to know."""
    spec, family = trained.spec, trained.study.to_dict()["family"]
    text = spec.kind == "tokens"
    return {
        "format": FORMAT,
        "family": family,
        "width": trained.row["width"],
        "depth": trained.row["depth"],
        "kind": spec.kind,
        "vocab_size" if text else "num_classes": spec.vocab_size,
        **({"context": spec.context} if text else {"image_shape": list(spec.image)}),
        "inputs": f"int32 [batch, {spec.context}]: tokens; causal, so that shorter texts may be padded at the end"
        if text
        else f"uint8 [batch, {', '.join(map(str, spec.image))}]: pixels; they are normalized inside",
        "outputs": "float32 [batch, context, vocab_size]: logits of the next token"
        if text
        else "float32 [batch, num_classes]: logits",
        "compute_dtype": trained.row.get("compute_dtype", "float32"),
        "run": {key: trained.row.get(key) for key in ("run_id", "study", "scale", "seed", "tokens", "flops", "loss")},
    }
