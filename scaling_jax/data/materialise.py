"""From a source to arrays in files, once: tokenised, counted, checksummed, checked for leaks."""

from __future__ import annotations

import hashlib
import pathlib
import re
import shutil
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from scaling_jax.data import cache, leak, tokenizers
from scaling_jax.data.cache import Progress
from scaling_jax.data.sources import SPLITS, Source
from scaling_jax.errors import UserError
from scaling_jax.study import content_hash

REPORT_EVERY = 4_000_000


def key(source: Source) -> str:
    """The folder name under which a source's arrays are kept."""
    slug = re.sub(r"[^A-Za-z0-9]+", "-", source.name).strip("-")[:48]
    identity = [cache.FORMAT, source.name, source.splits, source.tokenizer, source.identity]
    return f"{slug}-{content_hash(identity)}"


def entry(source: Source, cache_dir: str | pathlib.Path | None = None, on_progress: Progress | None = None):
    """The cached arrays of `source`, made now if they are not there.

    Raises:
      UserError: the source is empty or wrong, the disk too small, or the cached arrays were altered.
    """
    root, on_progress = cache.root(cache_dir), on_progress or cache.silent
    directory = root / "arrays" / key(source)
    if not (directory / "meta.json").exists():
        with cache.making(directory, on_progress) as partial:
            if partial is not None:
                check_space(root, source)
                cache.write_meta(partial, make_text(source, root, partial, on_progress))
    return cache.open_entry(directory)


def check_space(root: pathlib.Path, source: Source) -> None:
    """Raises UserError when the arrays of `source` would not fit on the disk of the cache."""
    free = shutil.disk_usage(root).free
    if source.size_hint and source.size_hint > free:
        raise UserError(
            f"{source.name} takes about {source.size_hint / 1e9:.2f} GB and {str(root)!r} has {free / 1e9:.2f} GB "
            "free: set SCALING_JAX_CACHE to a larger disk or take a part of the split, such as 'train[:10%]'"
        )


def make_text(source: Source, root: pathlib.Path, directory: pathlib.Path, on_progress: Progress) -> dict[str, Any]:
    """Writes the token arrays of a text source into `directory` and returns its meta data."""
    read = source.open(root, on_progress)
    tokenizer = tokenizers.make(source.tokenizer)
    check = leak.Check()
    files, counts, sizes, documents = {}, {}, {}, {}
    for split in SPLITS:  # validation first: its lines are then looked for in the training text
        watch = check.validation if split == "validation" else check.train
        path = directory / f"{split}.bin"
        writer = _Writer(tokenizer, path)
        total = source.size_hint if split == "train" else None
        writer.write(_reported(_watched(read(split), watch), f"{source.name}: writing {split}", total, on_progress))
        if writer.documents == 0:
            raise UserError(f"{source.name}: split {source.splits[split]!r} has no text")
        files[split] = cache.describe_file(path, writer.dtype, (writer.tokens,), writer.sha256.hexdigest())
        counts[split], sizes[split], documents[split] = writer.counts, writer.bytes, writer.documents
    info = {
        "documents": documents,
        "tokens": {split: files[split]["shape"][0] for split in SPLITS},
        "bytes": sizes,
        "leak": check.share(),
        "validation_lines": check.lines,
        "unigram_nats": unigram_nats(counts["train"], counts["validation"]),
        **source.info,
    }
    on_progress(f"{source.name}: {leak.message(info['leak'])}", 1, 1)
    return {
        "name": source.name,
        "kind": "tokens",
        "splits": source.splits,
        "tokenizer": {"name": tokenizer.name, "vocab_size": tokenizer.vocab_size, "identity": tokenizer.identity},
        "bytes_per_token": sizes["validation"] / files["validation"]["shape"][0],
        "files": files,
        "info": info,
    }


def unigram_nats(train_counts: np.ndarray, validation_counts: np.ndarray) -> float:
    """Nats per validation token under the (add-one) unigram distribution of the training tokens.

    The loss less this is the unigram-normalised loss, comparable across vocabularies.
    """
    log_p = np.log((train_counts + 1) / (train_counts.sum() + train_counts.size))
    return float(-(validation_counts @ log_p) / validation_counts.sum())


class _Writer:
    """Appends documents to a token file and counts what passes."""

    def __init__(self, tokenizer: tokenizers.Tokenizer, path: pathlib.Path):
        self.tokenizer, self.path = tokenizer, path
        self.dtype = np.dtype(tokenizers.dtype(tokenizer.vocab_size))
        self.sha256 = hashlib.sha256()
        self.counts = np.zeros(tokenizer.vocab_size, np.int64)
        self.documents = self.bytes = self.tokens = 0

    def write(self, documents: Iterable[bytes]) -> None:
        separator = np.array([self.tokenizer.separator], self.dtype)
        with open(self.path, "wb") as file:
            for document in documents:
                tokens = np.concatenate([self.tokenizer.encode(document).astype(self.dtype, copy=False), separator])
                file.write(tokens)
                self.sha256.update(tokens)
                self.counts += np.bincount(tokens, minlength=self.counts.size)
                self.documents += 1
                self.bytes += len(document) + 1
                self.tokens += len(tokens)


def _watched(documents: Iterable[bytes], watch) -> Iterator[bytes]:
    for document in documents:
        watch(document)
        yield document


def _reported(documents: Iterable[bytes], what: str, total: int | None, on_progress: Progress) -> Iterator[bytes]:
    done = reported = 0
    for document in documents:
        yield document
        done += len(document)
        if done - reported >= REPORT_EVERY:
            on_progress(what, done, total)
            reported = done
    on_progress(what, done, done)
