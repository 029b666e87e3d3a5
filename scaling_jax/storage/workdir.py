"""A workdir belongs to one study, and to one process at a time."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import re
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

from scaling_jax.errors import UserError
from scaling_jax.storage import lock
from scaling_jax.storage.paths import as_path, is_remote, is_temporary, write_atomic
from scaling_jax.study import Study

ABANDONED_SECONDS = 600.0


class Workdir:
    """The folder (or gs:// path) of one study's results."""

    def __init__(self, path: Any):
        path = as_path(path)
        # orbax writes to absolute paths only.
        self.path = path if is_remote(path) else as_path(os.path.abspath(path))

    def check(self, study: Study, packs: Sequence[str], dataset_hash: str | None = None) -> None:
        """Looks whether these packs of `study` may be trained here; writes nothing.

        Raises:
          UserError: the workdir belongs to another study, its data has changed, another process of this machine trains
            one of the packs, or nothing can be written.
        """
        self._check_place()
        self._check_owner(study, dataset_hash)
        lock.check(self.path, packs)

    @contextlib.contextmanager
    def claim(self, study: Study, packs: Sequence[str], dataset_hash: str) -> Iterator[int]:
        """Takes packs (by their scale) for this process; yields the number of this attempt.

        Raises:
          UserError: as `check`, and for a process on another machine that trains one of the packs.
        """
        self.check(study, packs, dataset_hash)
        self.path.mkdir(parents=True, exist_ok=True)
        with lock.Lock(self.path, packs, on_lost=_stop_at_once):
            self._check_owner(study, dataset_hash)  # again: another may have come and gone
            self._clean()
            number = self._next_attempt()
            stored = {"study": study.to_dict(), "hash": study.hash(), "dataset_hash": dataset_hash}
            write_atomic(self.path / "study.json", json.dumps(stored, indent=1))
            info = {"command": sys.argv, "pid": os.getpid(), "host": socket.gethostname(), "start": time.time()}
            # Processes that train other packs may count alike; the process id keeps their files apart.
            write_atomic(self.path / "attempts" / f"{number:04d}-{os.getpid()}.json", json.dumps(info, indent=1))
            yield number

    def dataset_hash(self) -> str | None:
        """Identity of the data that was trained on here; None when nothing was."""
        owner = self.path / "study.json"
        return json.loads(owner.read_text())["dataset_hash"] if owner.exists() else None

    def _check_place(self) -> None:
        if is_remote(self.path):
            return
        path = pathlib.Path(self.path)
        existing = next(p for p in (path, *path.absolute().parents) if p.exists())
        if not existing.is_dir():
            raise UserError(f"workdir {str(path)!r}: {str(existing)!r} is a file; give a folder")
        if not os.access(existing, os.W_OK | os.X_OK):
            raise UserError(f"workdir {str(path)!r}: no permission to write in {str(existing)!r}")

    def _check_owner(self, study: Study, dataset_hash: str | None) -> None:
        owner = self.path / "study.json"
        if not owner.exists():
            if self.path.exists() and not all(_is_housekeeping(p.name) for p in self.path.iterdir()):
                raise UserError(f"workdir {str(self.path)!r} is not empty and holds no study; give a new folder")
            return
        try:
            stored = json.loads(owner.read_text())
            stored_hash, stored_data = stored["hash"], stored["dataset_hash"]
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(f"{str(owner)!r} is damaged ({error!r}); give another --workdir") from error
        if stored_hash != study.hash():
            fields = ", ".join(_differences(stored["study"], study.to_dict())) or "a field"
            raise UserError(
                f"workdir {str(self.path)!r} belongs to another study (different: {fields}); "
                "give another --workdir, or the same study"
            )
        if dataset_hash is not None and stored_data != dataset_hash:
            raise UserError(
                f"the data of workdir {str(self.path)!r} has changed (dataset_hash {stored_data}, now "
                f"{dataset_hash}): its runs would not compare; give another --workdir"
            )

    def _next_attempt(self) -> int:
        attempts = self.path / "attempts"
        names = [p.name for p in attempts.iterdir()] if attempts.exists() else []
        return 1 + max((int(m[1]) for name in names if (m := re.fullmatch(r"(\d+)-\d+\.json", name))), default=-1)

    def _clean(self) -> None:
        """Removes what a kill or a full disk left half-written, but nothing that another process writes just now."""
        if is_remote(self.path):
            return
        for pattern in (".*", "attempts/.*", "locks/.*", "checkpoints/.*", "runs/*/.*", "trunks/*/.*"):
            for path in pathlib.Path(self.path).glob(pattern):
                with contextlib.suppress(FileNotFoundError):
                    if is_temporary(path.name) and time.time() - path.stat().st_mtime > ABANDONED_SECONDS:
                        path.unlink()


def _is_housekeeping(name: str) -> bool:
    """Names that stand in a workdir before its study.json does."""
    return name in ("lost+found", "slurm", lock.FOLDER) or is_temporary(name)


def _stop_at_once(holder: lock.Holder) -> None:
    """Ends this process before two write into one workdir: as after a kill, nothing that is saved is lost."""
    print(f"scaling-jax: the workdir was taken over by {holder}; stopping at once", file=sys.stderr, flush=True)
    os._exit(1)


def _differences(old: Any, new: Any, prefix: str = "") -> list[str]:
    """Paths of the fields that determine results and differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        skip = {"name", "execution", "fit", "hold_out"} if not prefix else set()
        keys = [k for k in {**old, **new} if k not in skip or prefix]
        return [path for k in keys for path in _differences(old.get(k), new.get(k), f"{prefix}{k}.")]
    return [] if old == new else [prefix.rstrip(".")]
