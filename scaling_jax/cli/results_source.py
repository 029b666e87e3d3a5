"""A path on the command line -> the table of runs behind it, with curves and settings where it is a workdir."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Sequence
from typing import Any

import pandas as pd

from scaling_jax.analysis import parse_table
from scaling_jax.analysis.files import check_ending
from scaling_jax.errors import UserError
from scaling_jax.results import Results
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
    if any(is_remote(path) for path in paths):
        return _within(TIMEOUT, paths, lambda: _read(paths))
    return _read(paths)


def _read(paths: Sequence[str]) -> Source:
    try:
        places = [as_path(path) for path in paths]
        if all(place.is_dir() for place in places):
            return _workdirs(places)
        if len(places) > 1:
            raise UserError("several results: give workdirs, or one table that holds all runs")
        if not places[0].exists():
            raise UserError(f"results {paths[0]!r} do not exist; give a workdir, or a table such as runs.csv")
        check_ending(paths[0])
        if not places[0].is_file() and not is_remote(paths[0]):
            raise UserError(f"results {paths[0]!r} are neither a file nor a folder; give a workdir or a table")
        content = places[0].read_bytes()
    except (OSError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise UserError(f"results {paths[0]!r} cannot be read: {reason}") from None
    return Source(parse_table(content, paths[0]), None, places[0].name, Fit(), HoldOut(), None)


def _workdirs(places: Sequence[Any]) -> Source:
    results = Results(tuple(places))
    if all((place / "study.json").exists() for place in places):
        study = results.study
        return Source(results.table, results.curves, study.name, study.fit, study.hold_out, places[0])
    return Source(results.table, None, places[0].name, Fit(), HoldOut(), places[0])


def _within(seconds: float, paths: Sequence[str], read: Any) -> Source:
    """`read()` in a thread that is abandoned when an object store does not answer."""
    found: list[Any] = []

    def target() -> None:
        try:
            found.append(read())
        except BaseException as error:
            found.append(error)

    text = next(path for path in paths if is_remote(path))
    scheme = text.partition("://")[0]
    as_path(text)  # fails within seconds without a network
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
