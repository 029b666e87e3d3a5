"""A user's own tokens: a .npy or .bin file of unsigned integers with a small JSON file of the same name beside it.

The JSON says `vocab_size`; for .bin also `dtype` ("uint16"); and, where known, `bytes_per_token`, without which there
are no bits per byte, and `validation`, the name of a second such file. Without that one block in twenty is held out.
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from scaling_jax.data.sources.registry import Reader, Source, no_splits, unit_hash
from scaling_jax.errors import UserError
from scaling_jax.models.family import Spec
from scaling_jax.study import Data

BLOCK = 65_536
VALIDATION_SHARE = 0.05
FIELDS = {"vocab_size", "dtype", "bytes_per_token", "validation"}


def source(data: Data) -> Source:
    """The tokens of a .npy or .bin file.

    Raises:
      UserError: the file or its JSON is missing or wrong, or another tokenizer is asked for.
    """
    no_splits(data)
    path = pathlib.Path(data.source).expanduser()
    described = _sidecar(path)
    if data.tokenizer != "bytes":
        raise UserError(
            f"data.source {str(path)!r} is tokenized already and does not match data.tokenizer {data.tokenizer!r}: "
            "leave data.tokenizer out, or give the text"
        )
    train = _open(path, described)
    validation = None
    if "validation" in described:
        validation = _open(path.with_name(described["validation"]), described)
    files = [path] if validation is None else [path, path.with_name(described["validation"])]
    stats = [file.stat() for file in files]
    return Source(
        name="token_files",
        spec=Spec("tokens", described["vocab_size"], data.context),
        splits={"train": "train", "validation": described.get("validation", f"by hash, {VALIDATION_SHARE:.0%}")},
        identity={"json": described, "files": [[str(f), s.st_size, s.st_mtime_ns] for f, s in zip(files, stats)]},
        open=lambda root, on_progress: _reader(train, validation),
        size_hint=sum(stat.st_size for stat in stats),
        info={"path": str(path), "bytes_per_token": float(described.get("bytes_per_token", "nan"))},
    )


def _sidecar(path: pathlib.Path) -> dict[str, Any]:
    sidecar = path.with_suffix(".json")
    if not path.is_file():
        raise UserError(f"data.source {str(path)!r} does not exist: give an existing file or folder")
    example = '{"vocab_size": 50257, "dtype": "uint16", "bytes_per_token": 4.2}'
    try:
        described = json.loads(sidecar.read_text())
    except FileNotFoundError:
        raise UserError(f"data.source {str(path)!r} needs {sidecar.name!r} beside it, such as {example}") from None
    except ValueError:
        raise UserError(f"{str(sidecar)!r} is not JSON; write it such as {example}") from None
    if not isinstance(described, dict) or not isinstance(described.get("vocab_size"), int):
        raise UserError(f"{str(sidecar)!r} does not say vocab_size; write it such as {example}")
    if unknown := set(described) - FIELDS:
        raise UserError(f"{str(sidecar)!r} has unknown fields {sorted(unknown)}; known: {', '.join(sorted(FIELDS))}")
    return described


def _open(path: pathlib.Path, described: dict[str, Any]) -> np.ndarray:
    try:
        if path.suffix == ".npy":
            tokens = np.load(path, mmap_mode="r")
        else:
            tokens = np.memmap(path, np.dtype(described["dtype"]), mode="r")
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = "its JSON does not say dtype" if isinstance(error, KeyError) else " ".join(str(error).split())[:200]
        raise UserError(f"token file {str(path)!r} cannot be read: {reason}") from None
    if tokens.ndim != 1 or tokens.dtype.kind not in "iu" or tokens.size < 2 * BLOCK // 1024:
        raise UserError(f"token file {str(path)!r} is {tokens.dtype}{list(tokens.shape)}, not a line of integer tokens")
    return tokens


def _reader(train: np.ndarray, validation: np.ndarray | None) -> Reader:
    block = min(BLOCK, max(1, len(train) // 400))
    names = [f"tokens:{i}" for i in range(-(-len(train) // block))]
    hashes = np.array([unit_hash(name) for name in names])
    # The lowest hashes, so that there always are some.
    limit = np.sort(hashes)[max(1, round(VALIDATION_SHARE * len(hashes)))]

    def read(split: str) -> Iterator[np.ndarray]:
        if validation is not None:
            tokens = validation if split == "validation" else train
            chosen = range(-(-len(tokens) // block))
        else:
            tokens, chosen = train, np.flatnonzero((hashes < limit) == (split == "validation"))
        return (np.asarray(tokens[i * block : (i + 1) * block]) for i in chosen)

    return read
