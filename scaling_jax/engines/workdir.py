"""A workdir belongs to one study, and to one process at a time."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import time
from collections.abc import Iterator
from typing import Any

from scaling_jax.errors import UserError
from scaling_jax.results import as_path, write_atomic
from scaling_jax.study import Study


class Workdir:
    """The folder (or gs:// path) of one study's results."""

    def __init__(self, path: Any):
        self.path = as_path(path)

    def check(self, study: Study, dataset_hash: str | None = None) -> None:
        """Raises UserError when the workdir belongs to another study, or its data has changed; writes nothing."""
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"workdir {str(self.path)!r} is a file; give a folder")
        owner = self.path / "study.json"
        if not owner.exists():
            if self.path.exists() and any(p.name != "lost+found" for p in self.path.iterdir()):
                raise UserError(f"workdir {str(self.path)!r} is not empty and holds no study; give a new folder")
            return
        stored = json.loads(owner.read_text())
        if stored["hash"] != study.hash():
            fields = ", ".join(_differences(stored["study"], study.to_dict())) or "a field"
            raise UserError(
                f"workdir {str(self.path)!r} belongs to another study (different: {fields}); "
                "give another --workdir, or the same study"
            )
        if dataset_hash is not None and stored["dataset_hash"] != dataset_hash:
            raise UserError(
                f"the data of workdir {str(self.path)!r} has changed (dataset_hash {stored['dataset_hash']}, now "
                f"{dataset_hash}): its runs would not compare; give another --workdir"
            )

    @contextlib.contextmanager
    def claim(self, study: Study, dataset_hash: str) -> Iterator[int]:
        """Takes the workdir for this process; yields the number of this attempt.

        Raises:
          UserError: it belongs to another study.
        """
        self.check(study, dataset_hash)
        attempts = self.path / "attempts"
        number = len(list(attempts.iterdir())) if attempts.exists() else 0
        stored = {"study": study.to_dict(), "hash": study.hash(), "dataset_hash": dataset_hash}
        write_atomic(self.path / "study.json", json.dumps(stored, indent=1))
        info = {"command": sys.argv, "pid": os.getpid(), "host": socket.gethostname(), "start": time.time()}
        write_atomic(attempts / f"{number:04d}.json", json.dumps(info, indent=1))
        yield number


def _differences(old: Any, new: Any, prefix: str = "") -> list[str]:
    """Paths of the fields that determine results and differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        skip = {"name", "execution", "fit", "hold_out"} if not prefix else set()
        keys = [k for k in {**old, **new} if k not in skip or prefix]
        return [path for k in keys for path in _differences(old.get(k), new.get(k), f"{prefix}{k}.")]
    return [] if old == new else [prefix.rstrip(".")]
