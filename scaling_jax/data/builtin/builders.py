"""TFDS builders of the built-in texts, prepared and read without TensorFlow; importing this imports TFDS."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import tensorflow_datasets as tfds

from scaling_jax.data.builtin import english, python_sources
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


BUILDERS = {builder.__name__: builder for builder in (PythonSources, English)}
