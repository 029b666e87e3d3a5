"""`scaling-jax sample`: text from a trained model, or the same prompt down the ladder."""

from __future__ import annotations

import sys
import time
from typing import Any

from absl import flags

from scaling_jax.cli import trained_flags
from scaling_jax.errors import UserError
from scaling_jax.storage.records import Records
from scaling_jax.trained import Generator, Sampling


def define_flags() -> None:
    """Defines the flags of `scaling-jax sample`."""
    trained_flags.define_flags()
    flags.DEFINE_string("prompt", "", "Beginning of the text; without it, a document begins.")
    flags.DEFINE_integer("max_tokens", None, "At most so many tokens; default to the end of the context.")
    flags.DEFINE_float("temperature", 1.0, "Divides the logits; 0 takes the most probable token.")
    flags.DEFINE_integer("top_k", 0, "Only the k most probable tokens; 0 for all.")
    flags.DEFINE_float("top_p", 1.0, "Only the most probable tokens that add up to this probability.")
    flags.DEFINE_integer("seed", 0, "The same seed gives the same text.")
    flags.DEFINE_bool("all_scales", False, "The same prompt from every scale of the ladder.")
    flags.DEFINE_bool("save", False, "With --all_scales: keep the texts in the workdir, for the report.")


def main(args: list[str], values: Any) -> int:
    """Prints the text as it is made, and tokens/s on stderr; returns the exit code."""
    if values.all_scales and (values.scale or values.run_id):
        raise UserError("--all_scales samples every scale: leave out --scale and --run_id")
    if values.save and not values.all_scales:
        raise UserError("--save keeps a prompt down the ladder: give --all_scales, too")
    models = trained_flags.models(args, values)
    sampling = Sampling(values.temperature, values.top_k, values.top_p, values.seed, values.max_tokens)
    scales, saved = models.scales if values.all_scales else [None], []
    for scale in scales:
        trained = models.load(scale or values.scale, values.run_id)
        generator = Generator(trained, models.tokenizer)
        stream = generator(values.prompt, sampling)
        if values.all_scales:
            print(f"--- {trained.scale}  loss {trained.row['loss']:.4f}")
        print(values.prompt, end="", flush=True)
        texts, begin = [], 0.0
        for token in stream:
            begin = begin or time.perf_counter()  # the first token waits for the compiler
            texts.append(token.text)
            print(token.text, end="", flush=True)
        print()
        row, count = trained.row, len(texts)
        saved.append(
            {"scale": trained.scale, "run_id": row["run_id"], "loss": row["loss"], "prompt": values.prompt,
             "text": "".join(texts), "settings": _settings(sampling)}
        )  # fmt: skip
        seconds = time.perf_counter() - begin
        took = f"{count} tokens" + (f", {(count - 1) / seconds:,.0f} tokens/s" if count > 1 else "")
        print(f"scaling-jax: {trained.scale}, run {row['run_id']}: {took}", file=sys.stderr, flush=True)
    if values.save:
        Records(values.workdir).write_samples(saved)
        print(f"scaling-jax: kept in {values.workdir}; scaling-jax report shows them on its page", file=sys.stderr)
    return 0


def _settings(sampling: Sampling) -> str:
    """temperature 0.7, top-k 40, seed 0."""
    cut = f", top-k {sampling.top_k}" if sampling.top_k else ""
    cut += f", top-p {sampling.top_p:g}" if sampling.top_p < 1 else ""
    return f"temperature {sampling.temperature:g}{cut}, seed {sampling.seed}"
