"""From the name in `data.source` to the source that reads it."""

from __future__ import annotations

import contextlib
import os
import pathlib
import re
from collections.abc import Iterator

from scaling_jax.data.builtin import source as builtin  # noqa: F401  registers the built-in sources
from scaling_jax.data.sources import images, registry, text, tokens
from scaling_jax.data.sources.source import Source
from scaling_jax.errors import UserError
from scaling_jax.study import Data

NOT_DATA = ("/proc", "/sys", "/dev")  # the system's own: files without end, and reads that never return


def resolve(data: Data) -> Source:
    """The source that `data.source` names: a registered name, a path, or a TFDS name, in this order.

    Args:
      data: the study's data.

    Returns:
      The source; its documents or images are not read yet.

    Raises:
      UserError: there is no such source, or it cannot be read.
    """
    name = data.source
    if not name or "\0" in name:
        raise UserError(f"data.source {name[:60]!r} is not a name: see `scaling-jax data list`")
    with readable(name):
        if (known := registry.find(name)) is not None:
            return known.make(data)
        return _from_path(pathlib.Path(name).expanduser(), data) if is_path(name) else _from_tfds(data)


@contextlib.contextmanager
def readable(name: str) -> Iterator[None]:
    """Turns the system's errors while `name` is read into a UserError."""
    try:
        yield
    except OSError as error:
        where = f" ({str(error.filename)[:200]!r})" if error.filename and str(error.filename) != name else ""
        raise UserError(
            f"data.source {name[:200]!r} cannot be read{where}: {error.strerror or error}; check the path and its "
            "permissions"
        ) from error


def is_path(name: str) -> bool:
    """True for a name that looks like a local path or exists as one."""
    return name.startswith(("/", "./", "../", "~")) or name in (".", "..") or os.path.lexists(name)


def _from_path(path: pathlib.Path, data: Data) -> Source:
    real = os.path.realpath(path)
    if real == "/" or any(real == place or real.startswith(place + "/") for place in NOT_DATA):
        raise UserError(f"data.source {data.source!r} belongs to the system: give a file or folder of data")
    if not path.exists():
        kind = "is a link to something that does not exist" if path.is_symlink() else "does not exist"
        raise UserError(f"data.source {data.source!r} {kind}: give an existing file or folder")
    if not path.is_file() and not path.is_dir():
        raise UserError(f"data.source {data.source!r} is neither a file nor a folder (a device, pipe or socket)")
    if (path / "dataset_info.json").is_file():
        return _from_tfds(data)
    if path.is_file() and path.suffix in tokens.SUFFIXES:
        return tokens.source(data)
    return images.source(data) if images.is_image_folder(path) else text.source(data)


def _from_tfds(data: Data) -> Source:
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://", data.source)
    if scheme and scheme[1] != "gs":
        raise UserError(
            f"data.source {data.source[:200]!r}: {scheme[1]}:// is not read; download the data and give its path"
        )
    if len(data.source) > 255:
        raise UserError(f"data.source {data.source[:60]!r} is not a name: see `scaling-jax data list`")
    from scaling_jax.data.sources import tfds  # half a second, for TFDS alone

    return tfds.source(data)
