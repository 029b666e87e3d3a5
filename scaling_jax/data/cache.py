"""The cache of materialized arrays: one folder per source, made once, atomically, and checked when it is opened."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
import shutil
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from scaling_jax.errors import UserError
from scaling_jax.storage import paths

Progress = Callable[[str, int, int | None], None]

FORMAT = 2
EDGE = 64 * 1024


def silent(what: str, done: int, total: int | None) -> None:
    """No-op progress callback."""


def progress_lines(say: Callable[[str], None], seconds: float) -> Progress:
    """A progress callback that prints a line when something begins, and then at most one every `seconds`."""
    last: dict[str, Any] = {"what": "", "time": 0.0}

    def show(what: str, done: int, total: int | None) -> None:
        now = time.monotonic()
        if what != last["what"] or now - last["time"] > seconds:
            last.update(what=what, time=now)
            say(what + (f" {done / total:.0%}" if total and done else f" {done:,}" if done else ""))

    return show


def arrays_folder(cache_dir: str | pathlib.Path | None = None) -> pathlib.Path:
    """The folder that has a subfolder per materialized source."""
    return paths.cache_dir(cache_dir) / "arrays"


@dataclasses.dataclass(frozen=True)
class Entry:
    """One materialized source: its folder, the contents of its `meta.json`, and its arrays by name, memory-mapped."""

    key: str
    directory: pathlib.Path
    meta: dict[str, Any]
    arrays: dict[str, np.ndarray]


def open_entry(directory: pathlib.Path, verify: bool = False) -> Entry:
    """Maps the arrays of an existing folder.

    `meta.json`, the sizes, and the first and last 64 kB of every file are always compared with their checksums; whole
    files when `verify` is set or a file has another modification time than when it was written.

    Args:
      directory: the folder.
      verify: compare whole files.

    Raises:
      UserError: an array or `meta.json` is missing, truncated or altered.
    """
    way_out = f"remove it with `scaling-jax data clear {directory.name}`; the next run makes it again"
    meta = read_meta(directory)
    if meta is None:
        raise UserError(
            f"cached data {str(directory)!r} was altered (meta.json differs from what was written): {way_out}"
        )
    arrays = {}
    for name, part in meta["files"].items():
        path = directory / f"{name}.bin"
        try:
            stat = path.stat()
        except FileNotFoundError:
            raise UserError(f"cached data {str(path)!r} is missing: {way_out}") from None
        if stat.st_size != part["bytes"]:
            raise UserError(f"cached data {str(path)!r} has {stat.st_size} bytes, not {part['bytes']}: {way_out}")
        touched = stat.st_mtime_ns != part["mtime_ns"]
        whole = (verify or touched) and file_sha256(path) != part["sha256"]
        if whole or edges_sha256(path) != part["edges_sha256"]:
            raise UserError(f"cached data {str(path)!r} was altered (its checksum differs): {way_out}")
        if touched:
            # Copied, not altered: restore the time, so that the next opening is fast again.
            with contextlib.suppress(OSError):
                os.utime(path, ns=(stat.st_atime_ns, part["mtime_ns"]))
        arrays[name] = np.memmap(path, part["dtype"], mode="r", shape=tuple(part["shape"]))
    return Entry(directory.name, directory, meta, arrays)


def describe_file(path: pathlib.Path, dtype: Any, shape: tuple[int, ...], sha256: str) -> dict[str, Any]:
    """The record of one array file in `meta.json`."""
    stat = path.stat()
    return {
        "dtype": np.dtype(dtype).name,
        "shape": list(shape),
        "bytes": stat.st_size,
        "mtime_ns": stat.st_mtime_ns,
        "sha256": sha256,
        "edges_sha256": edges_sha256(path),
    }


def file_sha256(path: pathlib.Path) -> str:
    """sha256 of a file's contents."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def edges_sha256(path: pathlib.Path) -> str:
    """sha256 of the first and last 64 kB of a file."""
    with open(path, "rb") as file:
        digest = hashlib.sha256(file.read(EDGE))
        size = os.fstat(file.fileno()).st_size
        file.seek(max(0, size - EDGE))
        digest.update(file.read(EDGE))
    return digest.hexdigest()


@contextlib.contextmanager
def making(directory: pathlib.Path, on_progress: Progress) -> Iterator[pathlib.Path | None]:
    """Gives one process at a time a folder that becomes `directory` when the block ends without an error.

    Yields None when another process has made `directory` in the meantime.
    """
    with locked(directory.with_name(directory.name + ".lock"), on_progress):
        if (directory / "meta.json").exists():
            yield None
            return
        partial = directory.with_name(directory.name + ".partial")
        if not list(partial.glob("*.state.json")):  # else an interrupted write continues
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
        try:
            yield partial
        except UserError:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        shutil.rmtree(directory, ignore_errors=True)
        os.replace(partial, directory)


@contextlib.contextmanager
def locked(path: pathlib.Path, on_progress: Progress) -> Iterator[None]:
    """Holds an advisory lock; says so through `on_progress` when another process holds it."""

    def waiting() -> None:
        on_progress("waiting for another process that prepares the same data", 0, None)

    with paths.file_lock(path, waiting):
        yield


def write_meta(directory: pathlib.Path, meta: dict[str, Any]) -> None:
    """Writes `meta.json`, the last file of a folder, with a checksum of itself."""
    meta = meta | {"format": FORMAT}
    paths.write_atomic(directory / "meta.json", json.dumps(meta | {"checksum": _checksum(meta)}, indent=1))


def read_meta(directory: pathlib.Path) -> dict[str, Any] | None:
    """The contents of a folder's `meta.json`; None where it is missing or is not what was written."""
    try:
        meta = json.loads((directory / "meta.json").read_text(encoding="utf-8"))
        checksum = meta.pop("checksum")
    except (OSError, ValueError, RecursionError, AttributeError, KeyError, TypeError):
        return None
    return meta if checksum == _checksum(meta) and meta.get("format") == FORMAT else None


def _checksum(meta: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(json.loads(json.dumps(meta)), sort_keys=True).encode()).hexdigest()[:16]


def entries(cache_dir: str | pathlib.Path | None = None) -> list[pathlib.Path]:
    """The folders of all materialized sources, by name."""
    return sorted(path.parent for path in arrays_folder(cache_dir).glob("*/meta.json"))


def size(folder: pathlib.Path) -> int:
    """Bytes of the files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
