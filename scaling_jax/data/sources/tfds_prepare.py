"""Preparing a TFDS dataset: our own builders without TensorFlow, stock ones with it where their code uses it."""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import logging
import os
import pathlib
import re
import sys
from collections.abc import Iterator

import tensorflow_datasets as tfds

from scaling_jax.data import cache
from scaling_jax.data.cache import Progress
from scaling_jax.data.sources import remote
from scaling_jax.errors import UserError


def prepare(builder: tfds.core.DatasetBuilder, root: pathlib.Path, on_progress: Progress) -> tfds.core.DatasetBuilder:
    """Downloads and writes `builder` as array_record and returns it; one process at a time, by a lock below `root`.

    Raises:
      UserError: TensorFlow is needed and missing, a host cannot be reached, or the builder fails.
    """
    name = builder.info.full_name
    with cache.locked(root / "tfds" / f"{name.replace('/', '-')}.lock", on_progress):
        if builder.is_prepared():  # by another process, since it was asked
            builder.info.read_from_directory(builder.data_path)
        else:
            _prepare(builder, name, on_progress)
    return builder


def _prepare(builder: tfds.core.DatasetBuilder, name: str, on_progress: Progress) -> None:
    if needs_tensorflow(builder) and importlib.util.find_spec("tensorflow") is None:
        raise UserError(no_tensorflow(builder))
    on_progress(f"{name}: preparing", 0, None)
    try:
        with quiet(builder), remote.short_network():
            builder.download_and_prepare(
                download_config=tfds.download.DownloadConfig(try_download_gcs=False), file_format="array_record"
            )
    except UserError:
        raise
    except ImportError as error:
        if "tensorflow" in str(error).lower():
            raise UserError(no_tensorflow(builder)) from error
        raise UserError(f"{name}: preparing it needs the package {error.name!r}: pip install it") from error
    except Exception as error:
        raise UserError(f"{name} could not be prepared: {remote.first_line(error)}") from error
    on_progress(f"{name}: preparing", 1, 1)


def needs_tensorflow(builder: tfds.core.DatasetBuilder) -> bool:
    """Whether a stock builder's code uses TensorFlow, which then should be asked for before a long download."""
    module = inspect.getmodule(type(builder))
    if module is None or is_ours(builder):
        return False
    return bool(re.search(r"import tensorflow( as tf)?$", inspect.getsource(module), re.MULTILINE))


def no_tensorflow(builder: tfds.core.DatasetBuilder) -> str:
    """Says that TensorFlow is missing to prepare `builder`."""
    folder = os.fspath(builder.data_path)
    extra = ", or `apt-get install dataset-fashion-mnist`" if builder.name == "fashion_mnist" else ""
    return (
        f"{builder.info.full_name} is not prepared in {folder!r}, and preparing it needs TensorFlow: "
        f"pip install 'scaling_jax[prepare]'{extra}, or set data.data_dir to where it is prepared"
    )


def is_ours(builder: tfds.core.DatasetBuilder) -> bool:
    """Whether the builder's code is ours: no TensorFlow, no download of TFDS's."""
    return type(builder).__module__.startswith("scaling_jax.")


@contextlib.contextmanager
def quiet(builder: tfds.core.DatasetBuilder) -> Iterator[None]:
    """Leaves TFDS's words unsaid, and its progress bars except for a stock builder on a terminal."""
    builder._log_download_bytes = builder._log_download_done = lambda: None
    if is_ours(builder) or not sys.stderr.isatty():
        tfds.disable_progress_bar()
    try:
        yield
    finally:
        tfds.enable_progress_bar()


class _NoNotices(logging.Filter):
    """Drops what TFDS logs about itself below an error: empty folders it looked into, faster packages."""

    def filter(self, record: logging.LogRecord) -> bool:
        return record.levelno > logging.WARNING or "tensorflow_datasets" not in record.pathname


logging.getLogger("absl").addFilter(_NoNotices())
