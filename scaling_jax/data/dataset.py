"""The face of the room: `describe` what a source looks like to a model, `load` its arrays."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

import numpy as np

from scaling_jax.data import batches, materialise
from scaling_jax.data.cache import Progress
from scaling_jax.data.resolve import resolve
from scaling_jax.errors import UserError
from scaling_jax.models.family import Spec
from scaling_jax.study import Data, content_hash


@dataclasses.dataclass(frozen=True)
class Dataset:
    """One source, materialised: arrays in files, mapped into memory and read only where they are touched.

    Attributes:
      spec: what the data looks like to a model.
      train: tokens, uint8 / uint16 / uint32 [num_tokens]; for images uint8 [n, H, W, C].
      validation: the same, a fixed set that shares no document with `train`.
      train_labels, validation_labels: int32 [n] for images, else None.
      dataset_hash: identity of the data: source, splits, tokenizer, contents, cap. Fits refuse to mix two of them.
      bytes_per_token: of the validation text, separators included: bits per byte = loss / ln 2 / bytes_per_token.
      unique_tokens: tokens (images) in `train`, after the cap.
      info: what else was found on the way: source, sizes, counts, leak share, unigram entropy.
    """

    spec: Spec
    train: np.ndarray
    validation: np.ndarray
    dataset_hash: str
    bytes_per_token: float
    unique_tokens: int
    info: dict[str, Any]
    train_labels: np.ndarray | None = None
    validation_labels: np.ndarray | None = None

    @property
    def num_train_windows(self) -> int:
        """Windows (images) an epoch visits; the `num_windows` of `batches.window_starts`."""
        return self._windows(self.train)

    @property
    def num_validation_windows(self) -> int:
        """Windows (images) there are to validate on."""
        return self._windows(self.validation)

    def _windows(self, array: np.ndarray) -> int:
        return len(array) if self.spec.kind == "images" else batches.count_windows(len(array), self.spec.context)


def describe(data: Data) -> Spec:
    """What `data` looks like to a model, without materialising it.

    Raises:
      UserError: there is no such source, or it cannot be read.
    """
    return resolve(data).spec


def load(data: Data, cache_dir: str | pathlib.Path | None = None, on_progress: Progress | None = None) -> Dataset:
    """The arrays of `data`, materialised on first use and only mapped afterwards.

    Args:
      data: the study's data.
      cache_dir: where arrays are kept; default $SCALING_JAX_CACHE or ~/.cache/scaling_jax.
      on_progress: called as on_progress(what, done, total) while arrays are made; total is None when unknown.

    Returns:
      The dataset.

    Raises:
      UserError: the source is missing, empty, shorter than the context or not what it should be, the cache cannot be
        written, or the stored arrays were altered.
    """
    source = resolve(data)
    entry = materialise.entry(source, cache_dir, on_progress)
    arrays, meta = entry.arrays, entry.meta
    train, labels = arrays["train"], arrays.get("train_labels")
    if data.unique_tokens is not None:
        train = train[: data.unique_tokens]
        labels = None if labels is None else labels[: data.unique_tokens]
    for name, array in (("training", train), ("validation", arrays["validation"])):
        if source.spec.kind == "tokens" and batches.count_windows(len(array), data.context) == 0:
            raise UserError(
                f"data.context={data.context} is longer than the {name} text of {meta['name']}, which has {len(array)} "
                "tokens: shorten the context or give more text"
            )
    return Dataset(
        spec=source.spec,
        train=train,
        validation=arrays["validation"],
        dataset_hash=dataset_hash(meta, len(train)),
        bytes_per_token=meta["bytes_per_token"],
        unique_tokens=len(train),
        info=meta["info"] | {"source": meta["name"], "key": entry.key, "directory": str(entry.directory)},
        train_labels=labels,
        validation_labels=arrays.get("validation_labels"),
    )


def dataset_hash(meta: dict[str, Any], unique_tokens: int) -> str:
    """Identity of cached arrays of which the first `unique_tokens` are trained on."""
    identity = {
        "source": meta["name"],
        "splits": meta["splits"],
        "tokenizer": meta["tokenizer"],
        "sha256": {name: part["sha256"] for name, part in sorted(meta["files"].items())},
        # A cap beyond the data is no cap.
        "unique_tokens": unique_tokens if unique_tokens < meta["files"]["train"]["shape"][0] else None,
    }
    return content_hash(identity)
