"""Getting TFDS data onto a local disk: preparing it, downloads that fail within seconds, copies from object stores.

Our own builders are prepared without TensorFlow, stock ones with it where their code uses it.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import importlib.util
import inspect
import logging
import os
import pathlib
import re
import sys
import threading
import urllib.parse
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import tensorflow_datasets as tfds
from etils import epath
from tensorflow_datasets.core.download import downloader

from scaling_jax.data import cache
from scaling_jax.data.cache import Progress
from scaling_jax.errors import UserError, first_line

PREFLIGHT_SECONDS = 3.0


def prepare(builder: tfds.core.DatasetBuilder, root: pathlib.Path, on_progress: Progress) -> tfds.core.DatasetBuilder:
    """Downloads and writes `builder` as array_record and returns it; one process at a time, by a lock below `root`.

    Raises:
      UserError: TensorFlow is needed and missing, a host cannot be reached, or the builder fails.
    """
    name = builder.info.full_name
    with cache.locked(root / "tfds" / f"{name.replace('/', '-')}.lock", on_progress):
        if builder.is_prepared():  # by another process in the meantime
            builder.info.read_from_directory(builder.data_path)
        else:
            _prepare(builder, name, on_progress)
    return builder


def _prepare(builder: tfds.core.DatasetBuilder, name: str, on_progress: Progress) -> None:
    if needs_tensorflow(builder) and importlib.util.find_spec("tensorflow") is None:
        raise UserError(no_tensorflow(builder))
    on_progress(f"{name}: preparing", 0, None)
    try:
        with quiet(builder), short_network():
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
        raise UserError(f"{name} could not be prepared: {first_line(error)}") from error
    on_progress(f"{name}: preparing", 1, 1)


def needs_tensorflow(builder: tfds.core.DatasetBuilder) -> bool:
    """True for a stock builder whose code uses TensorFlow, so that its absence is reported before a long download."""
    module = inspect.getmodule(type(builder))
    if module is None or is_ours(builder):
        return False
    return bool(re.search(r"import tensorflow( as tf)?$", inspect.getsource(module), re.MULTILINE))


def no_tensorflow(builder: tfds.core.DatasetBuilder) -> str:
    """The error message for preparing `builder` without TensorFlow."""
    folder = os.fspath(builder.data_path)
    extra = ", or `apt-get install dataset-fashion-mnist`" if builder.name == "fashion_mnist" else ""
    return (
        f"{builder.info.full_name} is not prepared in {folder!r}, and preparing it needs TensorFlow: "
        f"pip install 'scaling_jax[prepare]'{extra}, or set data.data_dir to where it is prepared"
    )


def is_ours(builder: tfds.core.DatasetBuilder) -> bool:
    """True for a builder of this package: it uses neither TensorFlow nor TFDS's downloads."""
    return type(builder).__module__.startswith("scaling_jax.")


@contextlib.contextmanager
def quiet(builder: tfds.core.DatasetBuilder) -> Iterator[None]:
    """Silences TFDS's log, and its progress bars except for a stock builder on a terminal."""
    builder._log_download_bytes = builder._log_download_done = lambda: None
    if is_ours(builder) or not sys.stderr.isatty():
        tfds.disable_progress_bar()
    try:
        with without_notices():
            yield
    finally:
        tfds.enable_progress_bar()


@contextlib.contextmanager
def without_notices() -> Iterator[None]:
    """Drops TFDS's log records below an error: empty folders it looked into, faster packages."""

    def wanted(record: logging.LogRecord) -> bool:
        return record.levelno > logging.WARNING or "tensorflow_datasets" not in record.pathname

    log = logging.getLogger("absl")
    log.addFilter(wanted)
    try:
        yield
    finally:
        log.removeFilter(wanted)


def check(path: str) -> None:
    """Raises UserError when a remote path cannot be read: no gcsfs, no network, no permission, or it does not exist."""
    if path.startswith("gs://") and importlib.util.find_spec("gcsfs") is None:
        raise UserError(f"reading {path!r} needs gcsfs: pip install gcsfs")
    if path.startswith("gs://") and unreachable("https://storage.googleapis.com/"):
        raise UserError(f"cannot reach storage.googleapis.com for {path!r}: connect, or copy the data to a local disk")
    try:
        exists = epath.Path(path).exists()
    except Exception as error:
        raise UserError(
            f"no access to {path!r} ({first_line(error)}): log in, for gs:// `gcloud auth application-default login`"
        ) from error
    if not exists:
        raise UserError(f"{path!r} does not exist, or you have no rights to list it")


def local_copy(
    builder: tfds.core.DatasetBuilder, splits: Iterable[str], root: pathlib.Path, on_progress: Progress
) -> tfds.core.DatasetBuilder:
    """`builder` with the files of `splits` copied below `root`, because record readers cannot read object stores."""
    target = root / "tfds" / builder.info.full_name
    files = [path for path in builder.data_path.iterdir() if ".array_record-" not in path.name]
    files += [path for split in splits for path in builder.info.splits[split].filepaths]
    target.mkdir(parents=True, exist_ok=True)
    for i, file in enumerate(files):
        on_progress(f"{builder.info.full_name}: copying from {os.fspath(builder.data_path)}", i, len(files))
        copied = target / file.name
        if not copied.exists() or copied.stat().st_size != file.stat().length:
            partial = copied.with_name(copied.name + ".partial")
            file.copy(partial, overwrite=True)
            os.replace(partial, copied)
    return tfds.builder_from_directory(target)


@contextlib.contextmanager
def short_network() -> Iterator[None]:
    """Within it a TFDS download checks first that its host answers, and retries once instead of ten times.

    Offline, TFDS 4.9 tries for 205 s and has no setting for it, so two names of its downloader are replaced for the
    time of a download; whatever is in its download cache is used without asking any host.
    """
    asked: dict[str, str | None] = {}
    stock, retries = downloader._open_with_requests, downloader.MAX_RETRIES

    def opened(url: str, **kwargs: Any) -> Any:
        host = urllib.parse.urlsplit(url).netloc
        if host not in asked:
            asked[host] = unreachable(url)
        if asked[host]:
            raise UserError(asked[host])
        return stock(url, **kwargs)

    downloader._open_with_requests, downloader.MAX_RETRIES = opened, 1
    try:
        yield
    finally:
        downloader._open_with_requests, downloader.MAX_RETRIES = stock, retries


def unreachable(url: str) -> str | None:
    """Why the host of `url` cannot be reached within 3 s, proxies honoured; None when it answers anything at all."""
    import requests

    try:
        within(PREFLIGHT_SECONDS, lambda: requests.head(url, timeout=PREFLIGHT_SECONDS, allow_redirects=False))
    except (requests.RequestException, TimeoutError) as error:
        return (
            f"cannot reach {urllib.parse.urlsplit(url).netloc} to download the data ({type(error).__name__}): connect "
            "to the network, or prepare the data elsewhere and set data.data_dir to it"
        )
    return None


def within(seconds: float, function: Callable[[], Any]) -> Any:
    """The result of `function`, or TimeoutError: name look-ups take no timeout of their own."""
    future: concurrent.futures.Future = concurrent.futures.Future()

    def work() -> None:
        try:
            future.set_result(function())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    return future.result(seconds)
