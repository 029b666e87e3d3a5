"""The tokenizer that a workdir's models were trained with; kept in the workdir, since a cache may be cleared."""

from __future__ import annotations

import pathlib
from typing import Any

from scaling_jax.data import Dataset, cache, load, tokenizers
from scaling_jax.errors import UserError
from scaling_jax.models.family import Spec
from scaling_jax.storage.paths import cache_dir, write_atomic
from scaling_jax.study import Study

FILE = "tokenizer.json"


def of_workdir(path: Any, study: Study, spec: Spec) -> Any:
    """The tokenizer.

    Raises:
      UserError: the data were not text, or the tokenizer is not kept here and its data or file is gone.
    """
    kept = path / FILE
    if spec.vocab_size != 256 and study.data.tokenizer == "bytes":
        return tokenizers.Ready(spec.vocab_size)  # the data were tokens already
    if kept.exists():
        return tokenizers.Fast(kept.read_text())
    name = study.data.tokenizer
    if name.startswith("bpe:"):
        keep(path, load(study.data))
        if kept.exists():
            return tokenizers.Fast(kept.read_text())
    if name == "bytes" or pathlib.Path(name).expanduser().is_file():
        return tokenizers.make(name)
    raise UserError(f"the tokenizer {name!r} of this study is neither in {path} nor where it was")


def keep(path: Any, dataset: Dataset) -> None:
    """Copies a tokenizer that was trained on the corpus into the workdir."""
    meta = cache.read_meta(pathlib.Path(dataset.info["directory"]))
    description = (meta or {}).get("tokenizer")
    if description is None or (path / FILE).exists():
        return
    made = tokenizers.stored(description, cache_dir())
    if isinstance(made, tokenizers.Fast):
        write_atomic(path / FILE, made.text)


def file_of(path: Any, study: Study, spec: Spec) -> str:
    """What `Data.tokenizer` is for another corpus in the same tokens: "bytes", or the path of a file.

    Raises:
      UserError: as `of_workdir`.
    """
    if not study.data.tokenizer.startswith("bpe:"):
        return study.data.tokenizer
    made = of_workdir(path, study, spec)
    local = cache_dir() / "tokenizers" / f"{made.describe()['identity'][:16]}.json"
    if not local.exists():
        write_atomic(local, made.text)
    return str(local)
