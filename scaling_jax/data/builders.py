"""TFDS builders of our own sources, prepared and read without TensorFlow; importing this imports TFDS."""

from __future__ import annotations

from collections.abc import Iterator

import tensorflow_datasets as tfds

from scaling_jax.data import python_sources
from scaling_jax.data.cache import Progress, silent
from scaling_jax.data.sources import Reader


class PythonSources(tfds.core.GeneratorBasedBuilder):
    """Python files of the standard library and of installed packages; a configuration is a set of versions."""

    VERSION = tfds.core.Version(python_sources.VERSION)

    def __init__(self, *, config: str | None = None, on_progress: Progress = silent, **kwargs):
        self._on_progress = on_progress
        super().__init__(config=tfds.core.BuilderConfig(name=config or "installed"), **kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=python_sources.__doc__,
            features=tfds.features.FeaturesDict({"text": tfds.features.Text(), "path": tfds.features.Text()}),
        )

    def _split_generators(self, dl_manager):
        return {split: self._examples(files) for split, files in python_sources.corpus(self._on_progress).items()}

    def _generate_examples(self, files):
        raise NotImplementedError  # _split_generators gives the examples

    def _examples(self, files: list[tuple[str, bytes]]):
        for path, text in files:
            yield path, {"text": text, "path": path}


def texts(builder: tfds.core.DatasetBuilder, on_progress: Progress) -> Reader:
    """Prepares `builder` where needed and reads its `text` feature."""
    if not builder.is_prepared():
        tfds.disable_progress_bar()
        builder.download_and_prepare()
    return lambda split: _texts(builder.as_data_source(split))


def _texts(source) -> Iterator[bytes]:
    for start in range(0, len(source), 256):
        for example in source.__getitems__(list(range(start, min(start + 256, len(source))))):
            yield example["text"]
