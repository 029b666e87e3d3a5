"""One door: what `data.source` names, as a Source that can be described cheaply and read once."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

from scaling_jax.data.cache import Progress
from scaling_jax.errors import UserError
from scaling_jax.models.family import Spec
from scaling_jax.study import Data

SPLITS = ("validation", "train")
Reader = Callable[[str], Iterator[Any]]


@dataclasses.dataclass(frozen=True)
class Source:
    """Something that arrays can be made of.

    Attributes:
      name: full name, version included; enters `dataset_hash`.
      spec: what it looks like to a model.
      tokenizer: as in the study (text only).
      splits: what "train" and "validation" are, in the source's own words.
      identity: JSON of what would be read, cheap to get (versions, sizes, modification times); with name, splits and
        tokenizer it is the key under which the arrays are kept.
      open: (cache folder, on_progress) -> reader; reader("train" | "validation") yields documents as UTF-8 bytes, or
        (image [H, W, C] uint8, label) pairs.
      size_hint: bytes the arrays will take, where known.
      info: what a person may want to know about it.
    """

    name: str
    spec: Spec
    splits: dict[str, str]
    identity: dict[str, Any]
    open: Callable[[pathlib.Path, Progress], Reader]
    tokenizer: str = ""
    size_hint: int | None = None
    info: dict[str, Any] = dataclasses.field(default_factory=dict)


def resolve(data: Data) -> Source:
    """The source that `data.source` names: a built-in, a path, or a TFDS name.

    Raises:
      UserError: there is none, or it cannot be read.
    """
    if data.source == "python_sources":
        from scaling_jax.data import python_sources

        return python_sources.source(data)
    if is_path(data.source):
        from scaling_jax.data import text_files

        return text_files.source(data)
    raise UserError(f"data.source {data.source!r} is neither a built-in source nor a file or folder")


def is_path(name: str) -> bool:
    """Whether `name` means a file or folder: it looks like one, or it is there."""
    return name.startswith(("/", "./", "../", "~")) or name in (".", "..") or os.path.exists(name)
