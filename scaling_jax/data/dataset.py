"""`describe` gives the shape of a source to a model, `load` its arrays, `notes` what is left out of them."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Iterable
from typing import Any

import numpy as np
from absl import logging

from scaling_jax.data import batches, materialize
from scaling_jax.data.cache import Progress
from scaling_jax.data.resolve import resolve
from scaling_jax.errors import UserError
from scaling_jax.models.family import Spec
from scaling_jax.study import Data, content_hash


@dataclasses.dataclass(frozen=True)
class Dataset:
    """One materialized source: arrays in files, memory-mapped, so that only what is touched is read.

    Attributes:
      spec: kind, vocabulary or classes, and shape.
      train: tokens, uint8 / uint16 / uint32 [num_tokens]; for images uint8 [n, H, W, C].
      validation: the same, a fixed set that shares no document with `train`.
      train_labels, validation_labels: int32 [n] for images, else None.
      dataset_hash: identity of the data: source, splits, tokenizer, contents, cap. Fits refuse to mix two of them.
      bytes_per_token: of the validation text, separators included: bits per byte = loss / ln 2 / bytes_per_token.
      unique_tokens: tokens (images) in `train`, after the cap.
      info: further facts: source, sizes, counts, overlap of train and validation ("leak"), unigram entropy, notes.
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
    """Kind, vocabulary and shapes of `data`, without materializing it.

    Raises:
      UserError: there is no such source, or it cannot be read.
    """
    return resolve(data).spec


def notes(data: Data, cache_dir: str | pathlib.Path | None = None) -> tuple[str, ...]:
    """Sentences about data that is left out or converted, such as "left out: 3 records whose text is null, in a.jsonl".

    They are complete once the arrays are cached; before, only facts that are known without reading the data.

    Args:
      data: the study's data.
      cache_dir: where arrays are cached; default $SCALING_JAX_CACHE or ~/.cache/scaling_jax.

    Raises:
      UserError: there is no such source, or it cannot be read.
    """
    return materialize.notes(resolve(data), cache_dir)


def known_tokens(data: Data, cache_dir: str | pathlib.Path | None = None) -> int | None:
    """Training tokens (samples) of the source, where that is known without reading it.

    Args:
      data, cache_dir: as in `notes`.

    Raises:
      UserError: there is no such source, or it cannot be read.
    """
    return materialize.known_tokens(resolve(data), cache_dir)


_warned: set[str] = set()


def _warn(sentences: Iterable[str]) -> None:
    for sentence in sentences:
        if sentence not in _warned:
            _warned.add(sentence)
            logging.warning("data: %s", sentence)


def load(data: Data, cache_dir: str | pathlib.Path | None = None, on_progress: Progress | None = None) -> Dataset:
    """The arrays of `data`, materialized on first use and only mapped afterwards.

    Logs a warning for each of its notes, once per process.

    Args:
      data: the study's data.
      cache_dir: where arrays are kept; default $SCALING_JAX_CACHE or ~/.cache/scaling_jax.
      on_progress: called as on_progress(what, done, total) while arrays are made; total is None when unknown.

    Returns:
      The dataset.

    Raises:
      UserError: the source is missing, empty, malformed or shorter than the context, the cache cannot be written, or
        the stored arrays were altered.
    """
    source = resolve(data)
    entry = materialize.entry(source, cache_dir, on_progress)
    arrays, meta = entry.arrays, entry.meta
    _warn(meta["info"].get("notes", ()))
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
        # A cap beyond the data has no effect.
        "unique_tokens": unique_tokens if unique_tokens < meta["files"]["train"]["shape"][0] else None,
    }
    return content_hash(identity)
