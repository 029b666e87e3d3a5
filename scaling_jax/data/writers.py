"""Writes the arrays of a source; tokenizes, counts, hashes and measures the train/validation overlap on the way."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import os
import pathlib
import time
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from scaling_jax.data import cache, overlap, tokenizers
from scaling_jax.data.cache import Progress
from scaling_jax.data.sources.source import SPLITS, Source
from scaling_jax.errors import UserError
from scaling_jax.storage import paths
from scaling_jax.study import content_hash

BATCH_BYTES = 1 << 20
SAVE_SECONDS = 30.0


def write_tokens(source: Source, root: pathlib.Path, directory: pathlib.Path, on_progress: Progress) -> dict[str, Any]:
    """Writes the token arrays of a text source into `directory` and returns its meta data.

    A long write saves its position every 30 s and resumes from it when it is started again in the same folder.

    Raises:
      UserError: a split has no text, or tokens are outside the vocabulary.
    """
    read = source.reader(root, on_progress)
    tokenizer = tokenizers.make(source.tokenizer, source.spec.vocab_size)
    if tokenizer.needs_training:
        tokenizer = tokenizers.train(tokenizer, read("train"), root, on_progress)
    check = overlap.Check() if source.tokenizer is not None else None
    parts = {split: TokenWriter(directory / f"{split}.bin", tokenizer) for split in SPLITS}
    for split, part in parts.items():  # validation first: then the training text is searched for its lines
        watch = check and getattr(check, split)
        what, total = f"{source.name}: writing {split}", source.size_hint if split == "train" else None
        part.write(read(split), watch, lambda done, what=what, total=total: on_progress(what, done, total))
        if part.tokens == 0:
            raise UserError(f"{source.name}: split {source.splits[split]!r} is empty")
        on_progress(what, part.bytes, part.bytes)
    if check is not None:
        on_progress(f"{source.name}: {overlap.message(check.share())}", 0, None)
    for part in parts.values():
        part.state.unlink(missing_ok=True)
    return {
        "name": source.name,
        "kind": "tokens",
        "splits": source.splits,
        "tokenizer": tokenizer.describe(),
        "bytes_per_token": source.info.get("bytes_per_token", parts["validation"].bytes / parts["validation"].tokens),
        "files": {split: part.describe() for split, part in parts.items()},
        "info": {
            "documents": {split: part.documents for split, part in parts.items()},
            "tokens": {split: part.tokens for split, part in parts.items()},
            "bytes": {split: part.bytes for split, part in parts.items()},
            "leak": check and check.share(),
            "validation_lines": check and check.lines,
            "unigram_nats": unigram_nats(parts["train"].counts, parts["validation"].counts),
            **source.info,
            "notes": list(source.notes()),
        },
    }


def unigram_nats(train_counts: np.ndarray, validation_counts: np.ndarray) -> float:
    """Nats per validation token under the (add-one) unigram distribution of the training tokens.

    The loss less this is the unigram-normalized loss, comparable across vocabularies (Tao et al. 2024,
    arXiv:2407.13623).
    """
    log_p = np.log((train_counts + 1) / (train_counts.sum() + train_counts.size))
    return float(-(validation_counts @ log_p) / validation_counts.sum())


class TokenWriter:
    """A token file that documents are appended to, with counts of what was appended."""

    def __init__(self, path: pathlib.Path, tokenizer: tokenizers.Tokenizer) -> None:
        self.path, self.tokenizer = path, tokenizer
        self.state = path.with_suffix(".state.json")
        self.dtype = np.dtype(tokenizers.dtype(tokenizer.vocab_size))
        self.sha256 = hashlib.sha256()
        self.counts = np.zeros(tokenizer.vocab_size, np.int64)
        self.documents = self.bytes = self.tokens = 0

    def write(
        self,
        documents: Iterable[Any],
        watch: Callable[[bytes], None] | None,
        on_bytes: Callable[[int], None],
    ) -> None:
        """Appends `documents`.

        Args:
          documents: all of the split; those that an interrupted write has in the file already are not written again.
          watch: called with every document.
          on_bytes: called with the bytes so far.
        """
        self._restore()
        written, saved, batch, size = self.documents, time.monotonic(), [], 0
        with open(self.path, "r+b" if written else "wb") as file:
            file.seek(self.tokens * self.dtype.itemsize)
            file.truncate()
            for number, document in enumerate(documents):
                _check_document(document)
                if watch is not None:
                    watch(document)
                if number < written:
                    continue
                batch.append(document)
                size += len(document)
                if size >= BATCH_BYTES:
                    self._append(file, batch)
                    on_bytes(self.bytes)
                    batch, size = [], 0
                    if time.monotonic() - saved > SAVE_SECONDS:
                        self._save(file)
                        saved = time.monotonic()
            self._append(file, batch)
            if time.monotonic() - saved > SAVE_SECONDS:
                self._save(file)

    def describe(self) -> dict[str, Any]:
        """The record of the file in `meta.json`."""
        return cache.describe_file(self.path, self.dtype, (self.tokens,), self.sha256.hexdigest())

    def _append(self, file: Any, batch: list[Any]) -> None:
        if not batch:
            return
        tokens, sizes = self.tokenizer.encode_batch(batch)
        tokens = tokens.astype(self.dtype, copy=False)
        file.write(tokens)
        self._count(tokens)
        self.documents += len(batch)
        self.bytes += sizes
        self.tokens += len(tokens)

    def _count(self, tokens: np.ndarray) -> None:
        self.sha256.update(tokens.data)
        self.counts += np.bincount(tokens, minlength=self.counts.size)

    def _save(self, file: Any) -> None:
        file.flush()
        os.fsync(file.fileno())
        state = [self.documents, self.bytes, self.tokens, self.sha256.hexdigest()]
        paths.write_atomic(self.state, json.dumps([*state, content_hash(state)]))

    def _restore(self) -> None:
        """Resumes from the saved position; from the beginning where it, or the file, is not what was written."""
        try:
            *state, checksum = json.loads(self.state.read_text())
            documents, size, tokens, digest = state
            if checksum != content_hash(state):
                return
            written = np.memmap(self.path, self.dtype, mode="r", shape=(tokens,))
        except (OSError, ValueError, TypeError, RecursionError):
            return
        for start in range(0, tokens, BATCH_BYTES):
            self._count(np.asarray(written[start : start + BATCH_BYTES]))
        if self.sha256.hexdigest() == digest:
            self.documents, self.bytes, self.tokens = documents, size, tokens
        else:
            self.sha256, self.counts = hashlib.sha256(), np.zeros_like(self.counts)


def _check_document(document: Any) -> None:
    """Raises TypeError or ValueError for a document that a source must not yield."""
    if isinstance(document, bytes):
        if b"\0" in document:
            raise ValueError("a source yields text with a zero byte, which separates documents: remove it")
    elif not isinstance(document, np.ndarray):
        raise TypeError(f"a source yields {type(document).__name__}, not bytes (text) or an array (tokens)")


def write_images(source: Source, root: pathlib.Path, directory: pathlib.Path, on_progress: Progress) -> dict[str, Any]:
    """Writes the image and label arrays of an image source into `directory` and returns its meta data.

    Raises:
      UserError: a split is empty, an image has another shape, or a label is outside the classes.
    """
    read, classes = source.reader(root, on_progress), source.spec.vocab_size
    shape = tuple(source.spec.image_shape or ())
    files, counts, seen, repeated, sums = {}, {}, set(), set(), np.zeros((2, shape[-1]))
    for split in SPLITS:
        labels, digest, path = [], hashlib.sha256(), directory / f"{split}.bin"
        examples, size = iter(read(split)), max(BATCH_BYTES // math.prod(shape), 1)
        with open(path, "wb") as file:
            while batch := list(itertools.islice(examples, size)):
                for image, label in batch:
                    _check_image(source, split, image, label)
                pixels = np.stack([image for image, _ in batch])
                prints = {hashlib.sha256(image.data).digest()[:16] for image in pixels}
                file.write(pixels.data)
                digest.update(pixels.data)
                labels += [label for _, label in batch]
                if split == "validation":
                    seen |= prints
                else:
                    repeated |= prints & seen
                    values = pixels.reshape(-1, shape[-1]).astype(np.int64)
                    sums += values.sum(0) / 255, (values**2).sum(0) / 255**2
                on_progress(f"{source.name}: writing {split}", len(labels), None)
        if not labels:
            raise UserError(f"{source.name}: split {source.splits[split]!r} is empty")
        files[split] = cache.describe_file(path, np.uint8, (len(labels), *shape), digest.hexdigest())
        files[f"{split}_labels"] = _write_labels(directory / f"{split}_labels.bin", labels)
        counts[split] = np.bincount(labels, minlength=classes).tolist()
    mean, square = sums / (sum(counts["train"]) * math.prod(shape[:-1]))
    share = len(repeated) / max(1, len(seen))
    on_progress(f"{source.name}: {share:.2%} of the validation images occur in training", 0, None)
    return {
        "name": source.name,
        "kind": "images",
        "splits": source.splits,
        "tokenizer": None,
        "bytes_per_token": float("nan"),
        "files": files,
        "info": {
            "class_counts": counts,
            "leak": share,
            "mean": mean.tolist(),
            "std": np.sqrt(np.maximum(square - mean**2, 0)).tolist(),
            **source.info,
            "notes": list(source.notes()),
        },
    }


def _check_image(source: Source, split: str, image: np.ndarray, label: int) -> None:
    """Raises UserError for an image of another shape, or a label outside the classes."""
    shape, classes = tuple(source.spec.image_shape or ()), source.spec.vocab_size
    if image.shape != shape or image.dtype != np.uint8:
        raise UserError(f"{source.name}: an image is {image.dtype}{list(image.shape)}, not uint8{list(shape)}")
    if not 0 <= label < classes:
        raise UserError(f"{source.name}: label {label} in split {split!r} is outside 0..{classes - 1}")


def _write_labels(path: pathlib.Path, labels: list[int]) -> dict[str, Any]:
    array = np.array(labels, np.int32)
    path.write_bytes(array.tobytes())
    return cache.describe_file(path, np.int32, array.shape, hashlib.sha256(array.tobytes()).hexdigest())
