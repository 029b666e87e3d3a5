"""TFDS builders of the built-in sources, prepared and read without TensorFlow; importing this imports TFDS."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import PIL.Image
import tensorflow_datasets as tfds
from tensorflow_datasets.core import registered
from tensorflow_datasets.image_classification import mnist

from scaling_jax.data.builtin import english, python_sources
from scaling_jax.data.builtin import images as image_sets
from scaling_jax.data.cache import Progress, silent


class _Text(tfds.core.GeneratorBasedBuilder):
    """Documents of text; a configuration is the versions of their origin."""

    source: Any

    def __init__(self, *, config: str = "any", on_progress: Progress = silent, **kwargs: Any) -> None:
        self._on_progress = on_progress
        super().__init__(config=tfds.core.BuilderConfig(name=config), file_format="array_record", **kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.source.__doc__,
            features=tfds.features.FeaturesDict({"text": tfds.features.Text(), "path": tfds.features.Text()}),
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        corpus = self.source.corpus(self._on_progress)
        return {split: self._generate_examples(documents) for split, documents in corpus.items()}

    def _generate_examples(self, documents: list[tuple[str, bytes]]) -> Iterator[Any]:
        for path, text in documents:
            yield path, {"text": text, "path": path}


class PythonSources(_Text):
    """Python files of the standard library and of installed packages."""

    VERSION = tfds.core.Version(python_sources.VERSION)
    source = python_sources


class English(_Text):
    """Entries of the dictionaries in Debian's packages dict-gcide, dict-foldoc and dict-jargon."""

    VERSION = tfds.core.Version(english.VERSION)
    source = english


class Digits(tfds.core.GeneratorBasedBuilder):
    """The 8x8 handwritten digits that scikit-learn carries."""

    VERSION = tfds.core.Version(image_sets.DIGITS_VERSION)

    def __init__(self, *, on_progress: Progress = silent, **kwargs: Any) -> None:
        super().__init__(file_format="array_record", **kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.__doc__,
            features=tfds.features.FeaturesDict(
                {"image": tfds.features.Image(shape=(8, 8, 1)), "label": tfds.features.ClassLabel(num_classes=10)}
            ),
            supervised_keys=("image", "label"),
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        return {split: self._generate_examples(*part) for split, part in image_sets.digits().items()}

    def _generate_examples(self, images: np.ndarray, labels: np.ndarray) -> Iterator[Any]:
        yield from _as_png(images, labels)


with registered.skip_registration():

    class FashionMnist(mnist.FashionMNIST):
        """TFDS's fashion_mnist (name, version, features) from the files of Debian's package."""

        name = "fashion_mnist"

        def __init__(self, *, on_progress: Progress = silent, **kwargs: Any) -> None:
            super().__init__(file_format="array_record", **kwargs)

        def _split_generators(self, dl_manager: Any) -> Any:
            return {split: self._generate_examples(*image_sets.fashion_mnist(split)) for split in ("train", "test")}

        def _generate_examples(self, images: np.ndarray, labels: np.ndarray) -> Any:  # type: ignore[override]
            yield from _as_png(images, labels)


def _as_png(images: np.ndarray, labels: np.ndarray) -> Iterator[tuple[int, dict[str, Any]]]:
    # PNG bytes, because TFDS's Image feature encodes arrays with TensorFlow; not compressed, which takes half the time.
    for i, (image, label) in enumerate(zip(images, labels)):
        buffer = io.BytesIO()
        PIL.Image.fromarray(image).save(buffer, "PNG", compress_level=0)
        yield i, {"image": buffer.getvalue(), "label": int(label)}


BUILDERS = {builder.__name__: builder for builder in (PythonSources, English, Digits, FashionMnist)}
