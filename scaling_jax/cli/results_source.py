"""A path on the command line -> the table of runs behind it, with curves and settings where it is a workdir."""

from __future__ import annotations

import dataclasses
import os
import socket
import threading
import urllib.parse
from collections.abc import Sequence
from typing import Any

import pandas as pd

from scaling_jax.analysis import parse_table
from scaling_jax.errors import UserError
from scaling_jax.results import load
from scaling_jax.storage.paths import as_path, is_remote
from scaling_jax.study import Fit, HoldOut

TIMEOUT = 10.0  # seconds until an object store that does not answer is given up


@dataclasses.dataclass(frozen=True)
class Source:
    """Runs and how their study wanted them fitted.

    Attributes:
      table: one row per run.
      curves: learning curves, or None.
      name: of the study or the file.
      fit, hold_out: settings of the study; their defaults for a file.
      folder: of the workdir; None for a file.
    """

    table: pd.DataFrame
    curves: pd.DataFrame | None
    name: str
    fit: Fit
    hold_out: HoldOut
    folder: Any


def read_source(paths: Sequence[str]) -> Source:
    """The runs of one file, or of one or several workdirs.

    Raises:
      UserError: nothing there, not a table, a workdir without finished runs, or workdirs with different corpora.
    """
    sources = [_read(path) for path in paths]
    if len(sources) == 1:
        return sources[0]
    if any(source.folder is None for source in sources):
        raise UserError("several results: give workdirs, or one table that holds all runs")
    found = load(*(source.folder for source in sources))
    return dataclasses.replace(sources[0], table=found.table, curves=found.curves)


def _read(text: str) -> Source:
    if is_remote(text):
        return _within(TIMEOUT, text, lambda: _read_here(text))
    return _read_here(text)


def _read_here(text: str) -> Source:
    try:
        path = as_path(text)
        if path.is_dir():
            found = load(path)
            return Source(found.table, found.curves, found.study.name, found.study.fit, found.study.hold_out, path)
        if not path.exists():
            raise UserError(f"results {text!r} do not exist; give a workdir, or a table such as runs.csv")
        content = path.read_bytes()
    except (OSError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise UserError(f"results {text!r} cannot be read: {reason}") from None
    return Source(parse_table(content, text), None, path.name, Fit(), HoldOut(), None)


def _within(seconds: float, text: str, read: Any) -> Source:
    """`read()` in a thread that is abandoned when an object store does not answer."""
    found: list[Any] = []

    def target() -> None:
        try:
            found.append(read())
        except BaseException as error:
            found.append(error)

    scheme, _, rest = text.partition("://")
    _reach(scheme, rest)
    thread = threading.Thread(target=target, daemon=True)
    thread.start()
    thread.join(None if scheme == "gs" else seconds)
    if not found:
        raise UserError(f"results {text!r}: no answer within {seconds:g} s")
    if isinstance(found[0], UserError):
        raise found[0]
    if isinstance(found[0], BaseException):
        reason = " ".join(str(found[0]).split())[:200] or type(found[0]).__name__
        raise UserError(f"results {text!r} cannot be read: {reason}") from found[0]
    return found[0]


def _reach(scheme: str, rest: str) -> None:
    """Fails within seconds where Google's object store cannot be reached; its client would retry for minutes."""
    if scheme != "gs":
        raise UserError(f"results '{scheme}://{rest}': unknown scheme {scheme!r}; give a local path or gs://")
    server = os.environ.get("STORAGE_EMULATOR_HOST") or "https://storage.googleapis.com"
    address = urllib.parse.urlsplit(server if "://" in server else f"http://{server}")
    port = address.port or (443 if address.scheme == "https" else 80)
    try:
        socket.create_connection((address.hostname or "storage.googleapis.com", port), timeout=5).close()
    except OSError as error:
        raise UserError(
            f"results 'gs://{rest}': {address.hostname} cannot be reached ({error}); check the network"
        ) from None
