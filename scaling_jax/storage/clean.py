"""Drops what only resuming needs from a finished workdir: fewer and smaller files, the same results.

A run leaves three files (`result.json`, `_SUCCESS`, one file of points) once it is cleaned; a checkpoint is sixteen
in orbax's format, one per branch (the trained models) and one per pack (the trunk, from which a longer budget starts).
"""

from __future__ import annotations

import contextlib
import dataclasses
from typing import Any

from scaling_jax.errors import UserError
from scaling_jax.storage import lock
from scaling_jax.storage.paths import is_remote, is_temporary
from scaling_jax.storage.records import Records
from scaling_jax.storage.workdir import Workdir


@dataclasses.dataclass
class _Broom:
    """Removes folders and files, and counts them."""

    dry_run: bool
    files: int = 0
    bytes: int = 0

    def remove(self, path: Any) -> None:
        """Removes a file, or a folder with everything below it."""
        below = _files(path)
        self.files += len(below)
        self.bytes += sum(p.stat().length for p in below)
        if not self.dry_run:
            path.rmtree() if path.is_dir() else path.unlink()


def clean(workdir: Workdir, *, models: bool = False, dry_run: bool = False) -> str:
    """Removes what a finished study does not need for its results, its report and its trained models.

    Removed are the trunks' checkpoints but the last of each pack (from which a longer budget continues), checkpoints
    that were set aside, and temporary files; the chunks of every learning curve become one. A study that grows later
    trains what it needs again.

    Args:
      workdir: of a study whose every run has its result.
      models: drop all checkpoints, the trained models included.
      dry_run: only count.

    Returns:
      One line that says what was removed.

    Raises:
      UserError: not a workdir, runs without a result, or another process that trains here.
    """
    stored = workdir.stored()
    if stored is None:
        raise UserError(f"{str(workdir.path)!r} is not a workdir (it has no study.json)")
    workdir.check_links()
    records = Records(workdir.path)
    if missing := len(set(stored.runs) - set(records.finished()) - set(records.stopped())):
        raise UserError(
            f"workdir {str(workdir.path)!r} has {missing} runs without a result, which need their checkpoints: finish "
            "them with scaling-jax run first"
        )
    names, broom = list(workdir.packs()), _Broom(dry_run)
    with contextlib.nullcontext() if dry_run else lock.Lock(workdir.path, names, on_lost=lambda holder: None):
        if holders := lock.others(workdir.path):
            raise UserError(f"workdir {str(workdir.path)!r} is in use by {holders[0]}; wait for it")
        _checkpoints(workdir.path / "checkpoints", models, broom)
        attempt = workdir.next_attempt()
        for kind in ("runs", "trunks"):
            folder = workdir.path / kind
            for run in folder.iterdir() if folder.exists() else ():
                _points(Records(workdir.path, attempt), kind, run, broom)
    did = "would remove" if dry_run else "removed"
    return f"{did} {broom.files} files, {broom.bytes / 2**20:.1f} MiB, of {workdir.path}"


def _files(path: Any) -> list[Any]:
    return [file for part in path.iterdir() for file in _files(part)] if path.is_dir() else [path]


def _checkpoints(folder: Any, models: bool, broom: _Broom) -> None:
    for pack in folder.iterdir() if folder.exists() else ():
        if not pack.is_dir():
            if is_temporary(pack.name):
                broom.remove(pack)
        elif pack.name.endswith(".unreadable") or models:
            broom.remove(pack)
        else:
            for trunk in pack.glob("trunk*"):
                steps = [path for path in trunk.iterdir() if path.name.isdigit()]
                for path in sorted(steps, key=lambda path: int(path.name))[:-1]:
                    broom.remove(path)


def _points(records: Records, kind: str, run: Any, broom: _Broom) -> None:
    """Makes one file of the chunks of a learning curve."""
    old = list(run.glob("metrics-*.jsonl"))
    if len(old) > 1:
        if not broom.dry_run:
            records.write_points(kind, run.name, records.points(kind, run.name))
        for path in old:
            broom.remove(path)
    if not is_remote(run):
        for path in run.glob(".*"):
            if is_temporary(path.name):
                broom.remove(path)
