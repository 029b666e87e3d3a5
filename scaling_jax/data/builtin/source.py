"""The built-in sources: texts that TFDS prepares in the cache on first use, and images that fit the memory.

Neither needs TensorFlow. Images are in the order in which TFDS would store them, and have its split language.
"""

from __future__ import annotations

import functools
import os
import pathlib
import platform
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from scaling_jax.data import tokenizers
from scaling_jax.data.builtin import english, images, python_sources
from scaling_jax.data.cache import Progress
from scaling_jax.data.sources.registry import register
from scaling_jax.data.sources.source import Reader, Source
from scaling_jax.models.family import Spec
from scaling_jax.study import Data, content_hash


@register(
    "python_sources",
    "Python files of the standard library and of installed packages: 75 MB, nothing to download",
)
def python_corpus(data: Data) -> Source:
    """The source `python_sources`; its configuration is the versions of Python and of the packages."""
    versions = python_sources.installed()
    config = f"py{platform.python_version()}-{content_hash(versions)[:8]}"
    return _source(
        "PythonSources",
        data,
        name=f"python_sources/{config}/{python_sources.VERSION}",
        spec=Spec("tokens", tokenizers.vocab_size(data.tokenizer), data.context),
        disk_mb=110,
        info={"packages": versions},
        config=config,
    )


@register("english", "three dictionaries from Debian's packages: 46 MB, needs apt")
def english_corpus(data: Data) -> Source:
    """The source `english`."""
    return _source(
        "English",
        data,
        name=f"english/dictionaries/{english.VERSION}",
        spec=Spec("tokens", tokenizers.vocab_size(data.tokenizer), data.context),
        disk_mb=70,
        config="dictionaries",
    )


@register("fashion_mnist", "70,000 images of 28x28, 10 classes; from Debian's package dataset-fashion-mnist")
def fashion_mnist(data: Data) -> Source:
    """The source `fashion_mnist`: what TFDS has prepared, else Debian's files; the two are the same images."""
    if images.prepared_fashion_mnist(data.data_dir).is_dir() or not images.DEBIAN_FASHION_MNIST.is_dir():
        from scaling_jax.data.sources import tfds

        return tfds.source(data)
    read = {split: functools.partial(images.fashion_mnist, split) for split in ("train", "test")}
    return _images(data, "fashion_mnist/3.0.1", 28, read, flip=True)


@register("digits", "1,797 images of 8x8, 10 classes, from scikit-learn's wheel: a smoke test")
def digits(data: Data) -> Source:
    """The source `digits`.

    Raises:
      UserError: scikit-learn is not installed.
    """
    images.digits_file()
    both = functools.cache(images.digits)  # one file
    read = {split: lambda split=split: both()[split] for split in ("train", "validation")}
    return _images(data, f"digits/{images.DIGITS_VERSION}", 8, read, flip=False)


def _images(
    data: Data, name: str, pixels: int, read: Mapping[str, Callable[[], tuple[np.ndarray, np.ndarray]]], flip: bool
) -> Source:
    """The source of gray square images of ten classes.

    Args:
      data: the study's data.
      name: as in `Source`.
      pixels: height and width.
      read: split -> (images [n, H, W], labels [n]); the last split is the one to validate on.
      flip: mirrored images keep their class.
    """
    splits = {"train": data.split, "validation": data.validation_split or [*read][-1]}

    def open_(root: pathlib.Path, on_progress: Progress) -> Reader:
        parts = {split: load() for split, load in read.items()}
        order = {split: images.shuffled(split, len(labels)) for split, (_, labels) in parts.items()}
        places = {split: [(wanted, slice(None))] for split, wanted in splits.items()}
        if not set(splits.values()) <= set(parts):
            from scaling_jax.data.sources import tfds  # half a second, for its split language alone

            counts = {split: len(labels) for split, (_, labels) in parts.items()}
            places = {split: tfds.places(name, counts, wanted) for split, wanted in splits.items()}

        def examples(split: str) -> Iterator[tuple[np.ndarray, int]]:
            for part, span in places[split]:
                at, (pictures, labels) = order[part][span], parts[part]
                yield from zip(pictures[at][..., None], labels[at].tolist())

        return examples

    shape = (pixels, pixels, 1)
    return Source(
        name, Spec("images", 10, 1, shape), splits, {}, open_, size_hint=70_000 * pixels**2, info={"flip": flip}
    )


def _source(
    builder: str,
    data: Data,
    *,
    name: str,
    spec: Spec,
    disk_mb: int,
    info: dict[str, Any] | None = None,
    **options: Any,
) -> Source:
    """The text of the class `builder` of `builtin.builders`, which imports TFDS and so is imported on opening.

    Args:
      builder: name of the class.
      data: the study's data.
      name, spec, info: as in `Source`; the name determines what is read.
      disk_mb: size of records and arrays, rounded up.
      **options: of the class.
    """
    train, held_out = data.split, data.validation_split or "validation"

    def open_(root: pathlib.Path, on_progress: Progress) -> Reader:
        from scaling_jax.data.builtin import builders
        from scaling_jax.data.sources import tfds, tfds_prepare

        with tfds_prepare.without_notices():
            made = builders.BUILDERS[builder](data_dir=os.fspath(root / "tfds"), on_progress=on_progress, **options)
            if not made.is_prepared():
                tfds_prepare.prepare(made, root, on_progress)
        tfds.check_split(made, train)
        tfds.check_split(made, held_out)
        return tfds.reader(made, train, held_out)

    return Source(
        name=name,
        spec=spec,
        splits={"train": train, "validation": held_out},
        identity={},
        open=open_,
        tokenizer=data.tokenizer,
        disk_hint=disk_mb * 10**6,
        info=info or {},
    )
