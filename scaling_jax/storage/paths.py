"""Paths on disk or gs://: atomic writes, the cache folder, advisory file locks."""

from __future__ import annotations

import contextlib
import functools
import os
import pathlib
import socket
import threading
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import filelock
from absl import logging

from scaling_jax.errors import UserError

REACH_SECONDS = 4.0  # for a first connection to an object store


def as_path(path: Any) -> Any:
    """A path that may be local or gs://; the plain install, which only fits, has no etils and reads local ones.

    Raises:
      UserError: no path, another scheme, or an object store that cannot be reached.
    """
    scheme, separator, rest = str(path).partition("://")
    if not str(path).strip() or (separator and not rest.strip("/").strip()):
        raise UserError(f"{str(path)!r} names nothing; give a local path or gs://BUCKET/PATH")
    if str(path).startswith("~"):  # the shell leaves --flag=~/x as it is
        path = os.path.expanduser(path)
        if str(path).startswith("~"):
            raise UserError(f"{str(path)!r}: no user of that name; write ./{path} for a folder called so")
    if separator and scheme != "gs":
        raise UserError(f"{str(path)!r}: {scheme}:// is not supported; give a local path or gs://")
    if "\0" in str(path):
        raise UserError(f"{str(path)!r} holds a null character; give a local path or gs://")
    check_reachable(path)
    try:
        from etils import epath
    except ModuleNotFoundError:
        if is_remote(path):
            raise
        return pathlib.Path(path)
    return epath.Path(path)


def check_reachable(path: Any) -> None:
    """Fails within seconds where an object store cannot be reached; its client would retry for minutes.

    Raises:
      UserError: no connection to the server of a gs:// path.
    """
    if not is_remote(path) or urllib.request.getproxies():
        return
    server = os.environ.get("STORAGE_EMULATOR_HOST") or "https://storage.googleapis.com"
    address = urllib.parse.urlsplit(server if "://" in server else f"http://{server}")
    host = address.hostname or "storage.googleapis.com"
    why = _connection_error(host, address.port or (443 if address.scheme == "https" else 80))
    if why:
        raise UserError(f"{str(path)!r}: {host} cannot be reached ({why}); check the network")


@functools.cache
def _connection_error(host: str, port: int) -> str:
    """Why there is no connection; "" where there is one."""
    found: list[str] = []

    def connect() -> None:
        try:
            socket.create_connection((host, port), timeout=REACH_SECONDS).close()
            found.append("")
        except OSError as error:
            found.append(str(error))

    # Resolving a name has no timeout of its own.
    probe = threading.Thread(target=connect, daemon=True)
    probe.start()
    probe.join(REACH_SECONDS)
    return found[0] if found else f"no answer within {REACH_SECONDS:g} s"


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
