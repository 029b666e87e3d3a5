"""The built-in sources: TFDS builders of this package, prepared on first use in the cache, without TensorFlow."""

from __future__ import annotations

import os
import pathlib
import platform
from typing import Any

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
    return _source(
        "FashionMnist",
        data,
        name="fashion_mnist/3.0.1",
        spec=Spec("images", 10, 1, (28, 28, 1)),
        disk_mb=110,
        validation="test",
        info={"flip": True},
    )


@register("digits", "1,797 images of 8x8, 10 classes, from scikit-learn's wheel: a smoke test")
def digits(data: Data) -> Source:
    """The source `digits`.

    Raises:
      UserError: scikit-learn is not installed.
    """
    images.digits_file()
    return _source(
        "Digits",
        data,
        name=f"digits/{images.DIGITS_VERSION}",
        spec=Spec("images", 10, 1, (8, 8, 1)),
        disk_mb=1,
        info={"flip": False},
    )


def _source(
    builder: str,
    data: Data,
    *,
    name: str,
    spec: Spec,
    disk_mb: int,
    validation: str = "validation",
    info: dict[str, Any] | None = None,
    **options: Any,
) -> Source:
    """The source of the class `builder` of `builtin.builders`, which imports TFDS and so is imported on opening.

    Args:
      builder: name of the class.
      data: the study's data.
      name, spec, info: as in `Source`; the name determines what is read.
      disk_mb: size of records and arrays, rounded up.
      validation: the builder's split to validate on.
      **options: of the class.
    """
    train, held_out = data.split, data.validation_split or validation

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
        tokenizer=data.tokenizer if spec.kind == "tokens" else None,
        disk_hint=disk_mb * 10**6,
        info=info or {},
    )
