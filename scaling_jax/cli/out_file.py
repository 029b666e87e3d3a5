"""Files that a command writes."""

from __future__ import annotations

import errno
import os
import pathlib
import tempfile

from scaling_jax.errors import UserError
from scaling_jax.storage.paths import as_path, is_remote


def check_study_file(flag: str, name: str | None) -> None:
    """Raises UserError where no .py can be written; creates nothing."""
    if name is None:
        return
    path = pathlib.Path(name)
    if path.suffix != ".py":
        raise UserError(f"--{flag}={name}: a study is written as .py, e.g. --{flag}=study.py")
    check_writable(flag, path)


def check_writable(flag: str, path: pathlib.Path) -> None:
    """Raises UserError where nothing can be written at this path; creates nothing."""
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "it is a folder")
        if path.exists():
            path.open("ab").close()
        nearest = next(folder for folder in path.absolute().parents if folder.exists())
        tempfile.TemporaryFile(dir=nearest).close()
    except OSError as error:
        raise UserError(f"--{flag}={path} cannot be written: {error.strerror or error}") from None


def check_new_folder(flag: str, name: str) -> None:
    """Raises UserError unless nothing or an empty folder is at this path, and it can be written; creates nothing."""
    folder = as_path(name)
    if is_remote(name):
        return
    try:
        taken = os.path.lexists(folder) and not (folder.is_dir() and not any(folder.iterdir()))
    except OSError as error:
        raise UserError(f"--{flag}={name} cannot be written: {error.strerror or error}") from None
    if taken:
        raise UserError(f"--{flag}={name} exists and is not an empty folder: give a new one")
    check_writable(flag, pathlib.Path(folder) / "file")


def in_new_folder(path: pathlib.Path) -> str:
    """What is said behind the name of a file that is to be written where its folder is new; else ""."""
    return "" if path.parent.exists() else f" in the new folder {path.parent}"


def write_text(flag: str, name: str, text: str) -> str:
    """Writes a file, its folder included.

    Returns:
      What to say of it: "wrote NAME", and the folder where that is new.

    Raises:
      UserError: it cannot be written.
    """
    path = pathlib.Path(name)
    try:
        new = in_new_folder(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    except OSError as error:
        raise UserError(f"--{flag}={name} cannot be written: {error.strerror or error}") from None
    return f"wrote {name}{new}"
