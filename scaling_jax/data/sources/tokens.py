"""A user's own tokens: a .npy or .bin file of unsigned integers with a small JSON file of the same name beside it.

The JSON gives `vocab_size`; for .bin also `dtype` ("uint16"); and, where known, `bytes_per_token`, without which there
are no bits per byte, and `validation`, the name of a second such file. Without that one block in twenty is held out.
The header of llm.c's .bin files is skipped.
"""

from __future__ import annotations

import json
import math
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from scaling_jax.data.sources.source import Reader, Source, no_splits, unit_hash
from scaling_jax.data.tokenizers import MAX_VOCAB
from scaling_jax.errors import UserError
from scaling_jax.models.family import Spec
from scaling_jax.study import Data

SUFFIXES = (".npy", ".bin")
BLOCK = 65_536
VALIDATION_SHARE = 0.05
MIN_TOKENS = 128
FIELDS = {"vocab_size", "dtype", "bytes_per_token", "validation"}
EXAMPLE = '{"vocab_size": 50257, "dtype": "uint16", "bytes_per_token": 4.2}'
MAX_SIDECAR = 1 << 20
# llm.c writes 256 int32 first: a magic number, a version (1: uint16 tokens), and the number of tokens.
LLM_C_MAGIC, LLM_C_HEADER = 20_240_520, 1_024


def source(data: Data) -> Source:
    """The tokens of a .npy or .bin file.

    Raises:
      UserError: the file or its JSON is missing or wrong, or another tokenizer is requested.
    """
    no_splits(data)
    path = pathlib.Path(data.source).expanduser()
    described = _sidecar(path)
    if data.tokenizer != "bytes":
        raise UserError(
            f"data.source {str(path)!r} is tokenized already and does not match data.tokenizer {data.tokenizer!r}: "
            "leave data.tokenizer out, or give the text"
        )
    files = [path]
    if "validation" in described:
        files.append(_beside(path, described["validation"]))
    opened = [_open(file, described) for file in files]
    stats = [file.stat() for file in files]
    headers = [file.name for file in files if _has_header(file)]
    return Source(
        name="token_files",
        spec=Spec("tokens", described["vocab_size"], data.context),
        splits={"train": "train", "validation": described.get("validation", f"by hash, {VALIDATION_SHARE:.0%}")},
        identity={"json": described, "files": [[str(f), s.st_size, s.st_mtime_ns] for f, s in zip(files, stats)]},
        open=lambda root, on_progress: _reader(opened[0], opened[1] if len(opened) > 1 else None),
        size_hint=sum(stat.st_size for stat in stats),
        info={"path": str(path), "bytes_per_token": float(described.get("bytes_per_token", "nan"))},
        notes=lambda: [f"skipped the header of llm.c in {name}" for name in headers],
    )


def _beside(path: pathlib.Path, name: str) -> pathlib.Path:
    try:
        other = path.with_name(name)
    except ValueError:
        raise UserError(
            f"validation {name!r} beside {str(path)!r} is not a file name: write it without folders"
        ) from None
    if other == path:
        raise UserError(f"token file {str(path)!r} is its own validation: give another file, or leave validation out")
    return other


def _sidecar(path: pathlib.Path) -> dict[str, Any]:
    """The fields of the JSON beside a token file, checked."""
    sidecar = path.with_suffix(".json")
    if not sidecar.is_file():
        raise UserError(f"data.source {str(path)!r} needs {sidecar.name!r} beside it, such as {EXAMPLE}")
    try:
        if sidecar.stat().st_size > MAX_SIDECAR:
            raise ValueError
        described = json.loads(sidecar.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError):
        raise UserError(f"{str(sidecar)!r} is not JSON; write it such as {EXAMPLE}") from None
    if not isinstance(described, dict) or "vocab_size" not in described:
        raise UserError(f"{str(sidecar)!r} has no vocab_size; write it such as {EXAMPLE}")
    if unknown := set(described) - FIELDS:
        raise UserError(
            f"{str(sidecar)!r} has unknown fields {sorted(unknown)[:5]}; known: {', '.join(sorted(FIELDS))}"
        )
    checks = {
        "vocab_size": (lambda v: type(v) is int and 2 <= v <= MAX_VOCAB, f"an integer from 2 to {MAX_VOCAB:,}"),
        "dtype": (lambda v: isinstance(v, str) and _is_integer_type(v), 'an integer type such as "uint16"'),
        "bytes_per_token": (
            lambda v: type(v) in (int, float) and 0 < v < 1e6 and math.isfinite(v),
            "a positive number; leave it out where it is not known",
        ),
        "validation": (lambda v: isinstance(v, str) and bool(v), "the name of a file beside it"),
    }
    for name, value in described.items():
        valid, wanted = checks[name]
        if not valid(value):
            raise UserError(f"{str(sidecar)!r}: {name} is {json.dumps(value)[:60]}, not {wanted}")
    return described


def _is_integer_type(name: str) -> bool:
    try:
        return np.dtype(name).kind in "iu"
    except (TypeError, ValueError, SyntaxError):
        return False


def _open(path: pathlib.Path, described: dict[str, Any]) -> np.ndarray:
    """The tokens of a file, mapped."""
    if path.suffix != ".npy" and "dtype" not in described:
        raise UserError(f"token file {str(path)!r} cannot be read: its JSON has no dtype, such as {EXAMPLE}")
    try:
        if path.suffix == ".npy":
            tokens = np.lib.format.open_memmap(path, mode="r")
        else:
            offset = LLM_C_HEADER if _has_header(path) else 0
            tokens = np.memmap(path, np.dtype(described["dtype"]), mode="r", offset=offset)
    except FileNotFoundError:
        raise UserError(f"token file {str(path)!r} cannot be read: it does not exist") from None
    except Exception as error:  # NumPy evaluates the header: any error means that it is not one
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"token file {str(path)!r} cannot be read: {reason}") from None
    if tokens.ndim != 1 or tokens.dtype.kind not in "iu":
        raise UserError(
            f"token file {str(path)!r} is {tokens.dtype}{list(tokens.shape)}, not one dimension of integer tokens"
        )
    if tokens.size < MIN_TOKENS:
        raise UserError(f"token file {str(path)!r} has {tokens.size} tokens: at least {MIN_TOKENS} are needed")
    if tokens.itemsize == 2 and path.suffix == ".bin" and not tokens[1:4096:2].any() and tokens[:4096:2].any():
        raise UserError(f"every second token of {str(path)!r} is 0, as in a file of uint32: correct dtype in its JSON")
    return tokens


def _has_header(path: pathlib.Path) -> bool:
    """True for a .bin file with the header of llm.c."""
    if path.suffix != ".bin" or not path.is_file():
        return False
    with open(path, "rb") as file:
        start = file.read(LLM_C_HEADER)
    return len(start) == LLM_C_HEADER and np.frombuffer(start[:8], "<i4").tolist() == [LLM_C_MAGIC, 1]


def _reader(train: np.ndarray, validation: np.ndarray | None) -> Reader:
    block = min(BLOCK, max(1, len(train) // 400))
    names = [f"tokens:{i}" for i in range(-(-len(train) // block))]
    hashes = np.array([unit_hash(name) for name in names])
    # The lowest hashes, so that there always are some.
    limit = np.sort(hashes)[max(1, round(VALIDATION_SHARE * len(hashes)))]

    def read(split: str) -> Iterator[np.ndarray]:
        if validation is not None:
            tokens = validation if split == "validation" else train
            chosen: Any = range(-(-len(tokens) // block))
        else:
            tokens, chosen = train, np.flatnonzero((hashes < limit) == (split == "validation"))
        return (np.asarray(tokens[i * block : (i + 1) * block]) for i in chosen)

    return read
