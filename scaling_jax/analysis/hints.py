"""The way out when a table lacks a column: how what it has makes the one that is wanted."""

from __future__ import annotations

import difflib
import re

from scaling_jax.analysis.frames import names_of
from scaling_jax.analysis.header import Header, simple
from scaling_jax.text import listed

_SIZE = r"(\w*(loss|bpb|ppl)[_ ])?[\d.,]+(e[+-]?\d+)?\s*[kmbt]?"
_SEQUENCE = ("seq_len", "sequence_length", "seq_length", "context", "context_length", "block_size", "max_seq_len")
_BATCH = ("batch_size", "global_batch_size", "train_batch_size", "bs")
_STEPS = ("steps", "step", "_step", "train_steps", "num_steps", "iterations", "iters", "iter", "max_steps")
_RATIO = ("tokens_per_param", "tokens_per_parameter", "ratio", "d_over_n", "chinchilla_ratio")


def way_out(header: Header, name: str) -> str:
    """`--columns=...` that makes N, D, C or y of other columns, or what shape the table needs; "" where neither."""
    numbers = [c for c in names_of(header.table) if re.fullmatch(_SIZE, c.strip(), re.I)]
    if len(numbers) > 1:
        return (
            f"columns named {numbers[0]}, {numbers[1]} make it a pivot table: give one row per run, e.g. "
            "params,tokens,loss"
        )
    logs = _one(header, rf"log_?(10)?_?\(?({'|'.join(_WORDS.get(name, ()))})\)?$") if name in _WORDS else None
    if logs is not None:
        return f"--columns={name}=" + (f"10^`{logs}`" if "10" in logs else f"exp(`{logs}`)")
    return {"D": _tokens, "N": _size, "y": _metric}.get(name, lambda header: "")(header)


_WORDS = {"N": ("n", "params", "parameters", "n_params", "size"), "D": ("d", "tokens", "data"), "y": ("loss", "y")}


def alike(header: Header, name: str) -> str:
    """A question after the columns whose names are nearly this one, e.g. token_accuracy for accuracy; "" for none."""
    names = names_of(header.table)
    found = [c for c in names if name and (name.lower() in c.lower() or c.lower() in name.lower())]
    found = found or difflib.get_close_matches(name, names, 3)
    return f"did you mean {listed(found)}?" if found else ""


def _tokens(header: Header) -> str:
    size, ratio, compute = _usual(header, "N"), _first(header, _RATIO), _usual(header, "C")
    per_step = _first(header, ("tokens_per_step", "tokens_per_batch", "batch_tokens", "tokens_per_iter"))
    steps, batch, sequence = _first(header, _STEPS), _first(header, _BATCH), _first(header, _SEQUENCE)
    if size and ratio:
        return f"--columns=D=`{size}`*`{ratio}`"
    if size and compute:
        return f"--columns=D=`{compute}`/(6*`{size}`)"
    if steps and per_step:
        return f"--columns=D=`{steps}`*`{per_step}`"
    if steps and batch:
        return f"--columns=D=`{steps}`*`{batch}`*" + (f"`{sequence}`" if sequence else "1024, with your context length")
    return ""


def _size(header: Header) -> str:
    tokens, compute = _usual(header, "D"), _usual(header, "C")
    return f"--columns=N=`{compute}`/(6*`{tokens}`)" if tokens and compute else ""


def _metric(header: Header) -> str:
    if column := _one(header, r"(^|_)(ppl|perplexity)$"):
        return f"--columns=y=log(`{column}`)"
    if column := _one(header, r"(^|_)(acc|accuracy)$"):
        return f"--columns=y=1-`{column}`"
    if column := _one(header, r"log_?(likelihood|prob|probs)$"):
        return f"--columns=y=-`{column}`"
    return ""


def _one(header: Header, pattern: str) -> str | None:
    found = [c for c in names_of(header.table) if re.search(pattern, simple(c))]
    return min(found, key=len) if found else None


def _first(header: Header, names: tuple[str, ...]) -> str | None:
    return next(
        (c for n in names for c in names_of(header.table) if simple(re.split(r"[/.:]", c)[-1]) == simple(n)), None
    )


def _usual(header: Header, name: str) -> str | None:
    try:
        return header.usual(name)
    except ValueError:
        return None
