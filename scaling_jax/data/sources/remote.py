"""What lies behind a network: asked for within seconds, and copied before it is read."""

from __future__ import annotations

import concurrent.futures
import contextlib
import importlib.util
import os
import pathlib
import threading
import urllib.parse
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import tensorflow_datasets as tfds
from etils import epath
from tensorflow_datasets.core.download import downloader

from scaling_jax.data.cache import Progress
from scaling_jax.errors import UserError

PREFLIGHT_SECONDS = 3.0


def is_remote(path: str) -> bool:
    """Whether `path` lies in an object store."""
    return "://" in path


def check(path: str) -> None:
    """Raises UserError when a remote path cannot be read: no gcsfs, no network, no rights, not there."""
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
    """`builder` with the files of `splits` copied below `root`: record readers cannot read object stores."""
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
    """Within it a TFDS download first asks its host for a sign of life, and retries once instead of ten times.

    Offline, TFDS would try for 205 s. What is in its download cache is not asked for at all.
    """
    asked: dict[str, str | None] = {}
    stock, retries = downloader._open_with_requests, downloader.MAX_RETRIES

    def opened(url: str, **kwargs: Any):
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


def first_line(error: BaseException) -> str:
    """An exception's message in one line of at most 300 characters."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else text[:297] + "..."
