"""From a source to arrays in files, once."""

from __future__ import annotations

import errno
import pathlib
import re
import shutil

from scaling_jax.data import cache, tokenizers, writers
from scaling_jax.data.cache import Progress
from scaling_jax.data.sources.registry import Source
from scaling_jax.errors import UserError
from scaling_jax.storage import paths
from scaling_jax.study import content_hash

UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOTDIR)


def key(source: Source) -> str:
    """The folder name under which a source's arrays are kept."""
    slug = re.sub(r"[^A-Za-z0-9]+", "-", source.name).strip("-")[:48]
    identity = [cache.FORMAT, source.name, source.splits, tokenizers.identity(source.tokenizer), source.identity]
    return f"{slug}-{content_hash(identity)}"


def entry(
    source: Source, cache_dir: str | pathlib.Path | None = None, on_progress: Progress | None = None
) -> cache.Entry:
    """The cached arrays of `source`, made now if they are not there.

    Raises:
      UserError: the source is empty or wrong, the disk too small, or the cached arrays were altered.
    """
    root, on_progress = paths.cache_dir(cache_dir), on_progress or cache.silent
    try:
        if source.prepare is not None:
            source = source.prepare(root, on_progress)
        directory = cache.arrays_folder(root) / key(source)
        if not (directory / "meta.json").exists():
            with cache.making(directory, on_progress) as partial:
                if partial is not None:
                    check_space(root, source)
                    write = writers.write_images if source.spec.kind == "images" else writers.write_tokens
                    cache.write_meta(partial, write(source, root, partial, on_progress))
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        raise UserError(
            f"cannot write to the cache {str(root)!r} ({error.strerror}): set SCALING_JAX_CACHE to a folder with space"
        ) from error
    return cache.open_entry(directory)


def check_space(root: pathlib.Path, source: Source) -> None:
    """Raises UserError when the arrays of `source` would not fit on the disk of the cache."""
    free, needed = shutil.disk_usage(root).free, source.disk_hint or source.size_hint
    if needed and needed > free:
        raise UserError(
            f"{source.name} takes about {needed / 1e9:.2f} GB and {str(root)!r} has {free / 1e9:.2f} GB "
            "free: set SCALING_JAX_CACHE to a larger disk or take a part of the split, such as 'train[:10%]'"
        )
