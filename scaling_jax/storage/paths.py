"""Paths on disk or gs://: atomic writes, the cache folder, advisory file locks."""

from __future__ import annotations

import contextlib
import os
import pathlib
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import filelock
from absl import logging

from scaling_jax.errors import UserError


def as_path(path: Any) -> Any:
    """A path that may be local or gs://; the plain install, which only fits, has no etils and reads local ones.

    Raises:
      UserError: another scheme.
    """
    scheme, separator, _ = str(path).partition("://")
    if separator and scheme != "gs":
        raise UserError(f"{str(path)!r}: {scheme}:// is not supported; give a local path or gs://")
    if "\0" in str(path):
        raise UserError(f"{str(path)!r} holds a null character; give a local path or gs://")
    try:
        from etils import epath
    except ModuleNotFoundError:
        if is_remote(path):
            raise
        return pathlib.Path(path)
    return epath.Path(path)


def is_remote(path: Any) -> bool:
    """True for a path in an object store (gs://), which has no renames, no locks and no half-written files."""
    return "://" in str(path)


def cache_dir(chosen: str | os.PathLike | None = None) -> pathlib.Path:
    """The cache folder: `chosen`, else $SCALING_JAX_CACHE, else ~/.cache/scaling_jax; empty counts as unset."""
    return pathlib.Path(chosen or os.environ.get("SCALING_JAX_CACHE") or "~/.cache/scaling_jax").expanduser()


def is_temporary(name: str) -> bool:
    """True for the name of a file of `write_atomic` before its rename: a leftover when its process was killed."""
    return name.startswith(".") and name.endswith(".tmp")


def write_atomic(path: Any, content: str | bytes) -> None:
    """Writes the whole file or nothing, and returns once it would survive a power loss."""
    path = as_path(path)
    data = content.encode() if isinstance(content, str) else content
    if is_remote(path):
        path.write_bytes(data)  # object stores publish an object whole
        return
    _make_folder(path.parent)
    temporary = path.parent / f".{path.name[:200]}.{uuid.uuid4().hex[:8]}.tmp"
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _make_folder(path: Any) -> None:
    if not path.exists():
        _make_folder(path.parent)
        path.mkdir(exist_ok=True)
        _sync_folder(path.parent)


def _sync_folder(path: Any) -> None:
    """Makes the names in a folder survive a power loss."""
    with contextlib.suppress(OSError):  # some network file systems refuse
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def file_lock(path: Any, on_wait: Callable[[], None] | None = None) -> Iterator[None]:
    """Holds an advisory lock that ends with the process, however it ends; none where the file system has none.

    Args:
      path: the lock file on a local or network file system; made if missing.
      on_wait: called once when another process holds the lock and this one has to wait.
    """
    pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        lock = filelock.FileLock(path)  # an object per caller: two threads of one process exclude each other, too
        try:
            try:
                lock.acquire(timeout=0)
            except filelock.Timeout:
                if on_wait is not None:
                    on_wait()
                lock.acquire()
            stack.callback(lock.release)
        except (OSError, NotImplementedError) as error:
            logging.warning("no lock on %s (%s): do not start two processes on it at once", path, error)
        yield
