"""Turns a source into arrays in files, once."""

from __future__ import annotations

import contextlib
import pathlib
import re
import shutil
from collections.abc import Iterator

from scaling_jax.data import cache, tokenizers, writers
from scaling_jax.data.cache import Progress
from scaling_jax.data.sources.source import Source
from scaling_jax.errors import UserError
from scaling_jax.storage import paths
from scaling_jax.study import content_hash


def key(source: Source) -> str:
    """The name of the folder that a source's arrays are cached in."""
    slug = re.sub(r"[^A-Za-z0-9]+", "-", source.name).strip("-")[:48]
    identity = [cache.FORMAT, source.name, source.splits, tokenizers.identity(source.tokenizer), source.identity]
    return f"{slug}-{content_hash(identity)}"


def entry(
    source: Source, cache_dir: str | pathlib.Path | None = None, on_progress: Progress | None = None
) -> cache.Entry:
    """The cached arrays of `source`, made now if they are not there.

    Args:
      source: from `resolve`.
      cache_dir: default $SCALING_JAX_CACHE or ~/.cache/scaling_jax.
      on_progress: called as on_progress(what, done, total).

    Raises:
      UserError: the source is empty or wrong, the disk too small, or the cached arrays were altered.
    """
    root, on_progress = local_root(cache_dir), on_progress or cache.silent
    with _storable(root, source.name):
        if source.prepare is not None:
            source = source.prepare(root, on_progress)
        directory = cache.arrays_folder(root) / key(source)
        if not (directory / "meta.json").exists():
            with cache.making(directory, on_progress) as partial:
                if partial is not None:
                    check_space(root, source)
                    write = writers.write_images if source.spec.kind == "images" else writers.write_tokens
                    cache.write_meta(partial, write(source, root, partial, on_progress))
        return cache.open_entry(directory)


def notes(source: Source, cache_dir: str | pathlib.Path | None = None) -> tuple[str, ...]:
    """Sentences about data of `source` that is left out or converted: all of them once its arrays are cached.

    Before, those that are known without reading the data.
    """
    if source.prepare is not None:
        return ()
    meta = cache.read_meta(cache.arrays_folder(cache_dir) / key(source))
    return tuple(source.notes() if meta is None else meta["info"].get("notes", ()))


def known_tokens(source: Source, cache_dir: str | pathlib.Path | None = None) -> int | None:
    """Training tokens (samples) of `source`, where its arrays are cached."""
    if source.prepare is not None:
        return None
    meta = cache.read_meta(cache.arrays_folder(cache_dir) / key(source))
    return None if meta is None else int(meta["files"]["train"]["shape"][0])


def local_root(cache_dir: str | pathlib.Path | None) -> pathlib.Path:
    """The cache folder.

    Raises:
      UserError: it is not on a local disk, so that files in it cannot be mapped.
    """
    root = paths.cache_dir(cache_dir)
    if paths.is_remote(cache_dir or "") or re.match(r"[a-z0-9]+:/", str(root)):
        raise UserError(f"the cache {str(root)!r} is not a local folder: set SCALING_JAX_CACHE to one")
    return root


@contextlib.contextmanager
def _storable(root: pathlib.Path, name: str) -> Iterator[None]:
    """Turns the system's errors into a UserError about the cache, or about the source where its file is named."""
    try:
        yield
    except OSError as error:
        file, reason = error.filename, error.strerror or error
        if file is not None and not pathlib.Path(str(file)).is_relative_to(root):
            raise UserError(
                f"{name}: {str(file)[:200]!r} cannot be read ({reason}): check it and its permissions"
            ) from error
        raise UserError(
            f"cannot write to the cache {str(root)[:200]!r} ({reason}): set SCALING_JAX_CACHE to a folder with space"
        ) from error


def check_space(root: pathlib.Path, source: Source) -> None:
    """Raises UserError when the arrays of `source` would not fit on the disk of the cache."""
    free, needed = shutil.disk_usage(root).free, source.disk_hint or source.size_hint
    if needed and needed > free:
        raise UserError(
            f"{source.name} takes about {needed / 1e9:.2f} GB and {str(root)!r} has {free / 1e9:.2f} GB "
            "free: set SCALING_JAX_CACHE to a larger disk or take a part of the split, such as 'train[:10%]'"
        )
