"""One door: what `data.source` names, as a Source that can be described cheaply and read once."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
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

BUILT_IN = {
    "python_sources": "Python files of the standard library and of installed packages: 75 MB, nothing to download",
    "english": "three dictionaries from Debian's packages: 46 MB, needs apt",
    "fashion_mnist": "70,000 images of 28x28, 10 classes; from Debian's package dataset-fashion-mnist",
    "digits": "1,797 images of 8x8, 10 classes, from scikit-learn's wheel: a smoke test",
}


@dataclasses.dataclass(frozen=True)
class Source:
    """Something that arrays can be made of.

    Attributes:
      name: full name, version included; enters `dataset_hash`.
      spec: what it looks like to a model.
      splits: what "train" and "validation" are, in the source's own words.
      identity: JSON of what would be read, cheap to get (versions, sizes, modification times); with name, splits and
        tokenizer it is the key under which the arrays are kept.
      open: (cache folder, on_progress) -> reader. For text, reader("train" | "validation") yields documents as UTF-8
        bytes, for tokens arrays of tokens, for images pairs of uint8 [H, W, C] and label. None where `prepare` is set.
      tokenizer: as in the study, for text; None for images and for what comes as tokens.
      size_hint: bytes the arrays will take, where known.
      disk_hint: bytes that making them takes in the cache, prepared records included, where that is more.
      info: what a person may want to know about it.
      prepare: for a source that has to be downloaded first: (cache folder, on_progress) -> the source that can be read.
    """

    name: str
    spec: Spec
    splits: dict[str, str]
    identity: dict[str, Any]
    open: Callable[[pathlib.Path, Progress], Reader] | None
    tokenizer: str | None = None
    size_hint: int | None = None
    disk_hint: int | None = None
    info: dict[str, Any] = dataclasses.field(default_factory=dict)
    prepare: Callable[[pathlib.Path, Progress], Source] | None = None


def resolve(data: Data) -> Source:
    """The source that `data.source` names: a built-in, a path, or a TFDS name.

    A name that is a file or folder of the working directory means that file or folder.

    Raises:
      UserError: there is none, or it cannot be read.
    """
    # Imported as needed: TFDS alone takes half a second.
    return importlib.import_module(f"scaling_jax.data.{_module(data.source)}").source(data)


def _module(name: str) -> str:
    if name in ("python_sources", "english"):
        return f"builtin.{name}"
    if name in ("digits", "fashion_mnist"):
        return "builtin.images"
    if not is_path(name):
        return "sources.tfds"
    path = pathlib.Path(name).expanduser()
    if (path / "dataset_info.json").is_file():
        return "sources.tfds"
    if path.suffix in (".npy", ".bin"):
        return "sources.tokens"
    from scaling_jax.data.sources import images

    return "sources.images" if images.is_one(path) else "sources.text"


def is_path(name: str) -> bool:
    """Whether `name` means a local file or folder: it looks like one, or it is there."""
    return name.startswith(("/", "./", "../", "~")) or name in (".", "..") or os.path.exists(name)


def no_splits(data: Data) -> None:
    """Raises UserError when splits are asked for of a source that has none to choose from."""
    if data.split != "train" or data.validation_split is not None:
        raise UserError(
            f"data.source {data.source!r} is divided by hash: data.split and data.validation_split are for TFDS names"
        )


def unit_hash(name: str) -> float:
    """A number in [0, 1) that only the name decides: what splits are divided by."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64
