"""Files that a command writes."""

from __future__ import annotations

import errno
import pathlib
import tempfile

from scaling_jax.errors import UserError


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


def write_text(flag: str, name: str, text: str) -> None:
    """Writes a file, its folder included.

    Raises:
      UserError: it cannot be written.
    """
    path = pathlib.Path(name)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    except OSError as error:
        raise UserError(f"--{flag}={name} cannot be written: {error.strerror or error}") from None
