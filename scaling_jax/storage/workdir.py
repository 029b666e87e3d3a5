"""A workdir: one study that may grow, its packs, and one process at a time for each of them.

workdir/
  study.json                   the present study, what it was trained on, its runs
  attempts/<number>-<pid>.json every start of the command, with the study it was given
  checkpoints/<pack>.pack.json the lanes that were ever part of a pack, and where branches leave their trunks
  checkpoints/<pack>/          of `training.checkpoint`
  locks/, runs/, trunks/       of `storage.lock` and `storage.records`
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
import re
import socket
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from absl import logging

from scaling_jax.errors import InUse, UserError
from scaling_jax.identity import TRAINING_SEMANTICS, PackRecord, differences, shared
from scaling_jax.storage import lock, stored_json
from scaling_jax.storage.paths import as_path, is_remote, is_temporary, write_atomic

FORMAT = 2  # of study.json
PACK_SUFFIX = ".pack.json"
VOLUME = "+"  # between the name of a part of a pack's checkpoints and the number of its folder
ABANDONED_SECONDS = 600.0
# Where whoever holds a pack leaves temporary files, and where others do as well.
LOCKED = (".study.json.*", "attempts/.*", "locks/.*", "checkpoints/.*", "runs/*/.*", "trunks/*/.*")
UNLOCKED = (".*", "report/.*")


@dataclasses.dataclass(frozen=True)
class Stored:
    """Contents of study.json.

    Attributes:
      study: the present study, of `Study.to_dict`.
      spec: what its data looks like to a model, as a dict.
      frame: what all runs share, of `identity.frame`.
      dataset_hash: identity of the corpus.
      compute_dtype: resolved.
      code_version, device: of the process that wrote it.
      runs: identities of the present study's runs.
      training_semantics: of the code that trained here.
      rungs: runs that only chose among combinations (`Study.sweep`); None where nothing was ever stopped here.
    """

    study: dict[str, Any]
    spec: dict[str, Any]
    frame: dict[str, Any]
    dataset_hash: str
    compute_dtype: str
    code_version: str
    device: str
    runs: tuple[str, ...]
    training_semantics: int = TRAINING_SEMANTICS
    rungs: tuple[str, ...] | None = None


class Workdir:
    """The folder (or gs:// path) of a study's results.

    Args:
      path: local folder or gs:// path; need not exist.
    """

    def __init__(self, path: Any):
        path = as_path(path)
        # orbax writes to absolute paths only.
        self.path = path if is_remote(path) else as_path(os.path.abspath(path))

    def check(self, frame: Mapping[str, Any], packs: Sequence[str], dataset_hash: str | None = None) -> None:
        """Checks that these packs may be trained here; writes nothing.

        Args:
          frame: what all runs of the study share.
          packs: their names.
          dataset_hash: identity of the corpus, once it is known.

        Raises:
          UserError: the workdir holds another study or another corpus, another process of this machine trains one of
            the packs, or nothing can be written.
        """
        self._check_place()
        self.check_links()
        self._check_same(frame, dataset_hash)
        lock.check(self.path, packs)

    @contextlib.contextmanager
    def claim(self, study: Stored, packs: Mapping[str, PackRecord]) -> Iterator[int]:
        """Takes packs for this process and makes `study` the present one; yields the number of this attempt.

        Raises:
          UserError: as `check`, and for a process on another machine that trains one of the packs.
        """
        self.check(study.frame, list(packs), study.dataset_hash)
        self.path.mkdir(parents=True, exist_ok=True)
        with lock.Lock(self.path, list(packs), on_lost=_stop_at_once):
            self._check_same(study.frame, study.dataset_hash)  # again: another may have come and gone
            self._clean()
            self._tell_changes(study)
            self._join_packs(packs)
            number = self.next_attempt()
            write_atomic(
                self.path / "study.json", json.dumps({"format": FORMAT, **dataclasses.asdict(study)}, indent=1)
            )
            info = {
                "command": sys.argv,
                "pid": os.getpid(),
                "host": socket.gethostname(),
                "start": time.time(),
                "study": study.study,
            }
            # Processes that train other packs may count alike; the process id keeps their files apart.
            write_atomic(self.path / "attempts" / f"{number:04d}-{os.getpid()}.json", json.dumps(info, indent=1))
            yield number

    def stored(self) -> Stored | None:
        """The present study; None where nothing was trained.

        Raises:
          UserError: study.json is damaged or of an older version.
        """
        owner = self.path / "study.json"
        try:
            content = stored_json.read(owner, dict[str, Any])
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise UserError(f"{str(owner)!r} cannot be read ({error}); give another --workdir") from error
        if content.pop("format", None) != FORMAT:
            raise UserError(
                f"workdir {str(self.path)!r} was written by an older version: finish it with that version, or give "
                "another --workdir"
            )
        try:
            return stored_json.checked(content, Stored)
        except ValueError as error:
            raise UserError(f"{str(owner)!r} is damaged ({error}); give another --workdir") from error

    def stored_for(self, data: Mapping[str, Any]) -> Stored | None:
        """`stored` if its study has these settings of data, in whatever folder the data was; None otherwise."""

        def content(settings: Mapping[str, Any]) -> dict[str, Any]:
            return {**settings, "source": pathlib.PurePath(str(settings.get("source"))).name, "data_dir": None}

        stored = self.stored()
        return stored if stored is not None and content(_plain(data)) == content(stored.study.get("data", {})) else None

    def packs(self) -> dict[str, PackRecord]:
        """The packs that were ever trained here, by name. An unreadable record is logged and counts as missing."""
        folder, found = self.path / "checkpoints", {}
        for path in folder.iterdir() if folder.exists() else ():
            if path.name.endswith(PACK_SUFFIX):
                try:
                    found[path.name.removesuffix(PACK_SUFFIX)] = stored_json.read(path, PackRecord)
                except (ValueError, OSError) as error:
                    logging.warning("%s is unreadable (%s)", path, error)
        return dict(sorted(found.items()))

    def _check_place(self) -> None:
        if is_remote(self.path):
            return
        path = pathlib.Path(self.path)
        try:
            existing = next(p for p in (path, *path.absolute().parents) if os.path.lexists(p))
            is_folder = existing.is_dir()
        except OSError as error:
            raise UserError(f"workdir {str(path)!r}: {error.strerror}") from error
        if not is_folder:
            what = "a link to nothing" if existing.is_symlink() else "a file"
            raise UserError(f"workdir {str(path)!r}: {str(existing)!r} is {what}; give a folder")
        if existing.resolve().is_relative_to("/proc") or existing.resolve().is_relative_to("/sys"):
            raise UserError(f"workdir {str(path)!r} belongs to the system: give a folder")
        if not os.access(existing, os.W_OK | os.X_OK):
            raise UserError(f"workdir {str(path)!r}: no permission to write in {str(existing)!r}")

    def _check_same(self, frame: Mapping[str, Any], dataset_hash: str | None) -> None:
        """Raises UserError unless a study of this frame and corpus can be one with the study that is here."""
        stored, where = self.stored(), f"workdir {str(self.path)!r}"
        if stored is None:
            self.check_empty()
            return
        if stored.training_semantics != TRAINING_SEMANTICS:
            raise UserError(
                f"{where} was trained under version {stored.training_semantics} of the training semantics and this "
                f"code has version {TRAINING_SEMANTICS}: losses would not compare; continue it with the code that "
                "began it, or give another --workdir"
            )
        # A tokenizer or an image size that differs is another corpus: say so.
        found = differences(shared(stored.frame), _plain(frame))
        if dataset_hash not in (None, stored.dataset_hash):
            raise UserError(
                f"the data of {where} has changed (dataset_hash {stored.dataset_hash}, now {dataset_hash}): losses on "
                "different corpora do not compare; give another --workdir"
            )
        if found:
            raise UserError(
                f"{where} holds another study ({'; '.join(found)[:300]}): only widths, depths, budgets, seeds and what "
                "can be swept (rates, decays, beta2, init scales, batch size, warm-up, cool-down) may change; give "
                "another --workdir"
            )

    def _tell_changes(self, study: Stored) -> None:
        """Says what is different from the last time, where that may change a loss."""
        before = self.stored()
        if before is None:
            return
        if before.code_version != study.code_version:
            say(
                f"the code has changed since the last start ({before.code_version} -> {study.code_version}): runs "
                "before and after may differ"
            )
        if before.device != study.device:
            say(
                f"the devices have changed since the last start ({before.device} -> {study.device}): losses may differ "
                "by rounding, and by what training makes of it"
            )
        if before.compute_dtype != study.compute_dtype:
            say(
                f"compute_dtype was {before.compute_dtype} and is {study.compute_dtype}: these are other runs, trained "
                "from the beginning"
            )
        left = len(set(before.runs) - set(study.runs))
        if left:
            say(f"{left} runs of the last start are not part of this study: they stay on disk and are in no fit")

    def _join_packs(self, packs: Mapping[str, PackRecord]) -> None:
        """Adds lanes and forks to the records of the packs."""
        recorded = self.packs()
        home = {trunk_id: name for name, record in recorded.items() for trunk_id in record.lanes}
        for name, record in packs.items():
            before = recorded.get(name)
            if any(home.get(lane, name) != name for lane in record.lanes) or (before and before.scale != record.scale):
                raise InUse(
                    f"workdir {str(self.path)!r} has just been changed by another process; run the command again"
                )
            joined = record.joined(before)
            if joined != before:
                content = json.dumps(dataclasses.asdict(joined))
                write_atomic(self.path / "checkpoints" / f"{name}{PACK_SUFFIX}", content)

    def next_attempt(self) -> int:
        """Number of the next start of the command here."""
        attempts = self.path / "attempts"
        names = [p.name for p in attempts.iterdir()] if attempts.exists() else []
        return 1 + max((int(m[1]) for name in names if (m := re.fullmatch(r"(\d+)-\d+\.json", name))), default=-1)

    def _clean(self) -> None:
        """Removes temporary files of processes that were killed: of any age, unless other processes write here, too."""
        if is_remote(self.path):
            return
        alone, now = not lock.others(self.path), time.time()
        for pattern in (*LOCKED, *UNLOCKED):
            for path in pathlib.Path(self.path).glob(pattern):
                with contextlib.suppress(FileNotFoundError):
                    abandoned = now - path.stat().st_mtime > ABANDONED_SECONDS
                    if is_temporary(path.name) and (abandoned or (alone and pattern in LOCKED)):
                        path.unlink()

    def check_empty(self) -> None:
        """Raises UserError where other files are than those that may be here before study.json is."""
        if self.path.exists() and not all(_is_housekeeping(p.name) for p in self.path.iterdir()):
            raise UserError(f"workdir {str(self.path)!r} is not empty and has no study.json; give a new folder")

    def check_links(self) -> None:
        """Raises UserError when a folder of the workdir is a link out of it: nothing outside is ever written."""
        if is_remote(self.path) or not os.path.isdir(self.path):
            return
        root = pathlib.Path(self.path).resolve()
        for folder in (root, root / "checkpoints", root / "report", root / "scores"):
            for entry in os.scandir(folder) if folder.is_dir() else ():
                if entry.is_symlink() and not _stays_within(pathlib.Path(entry.path), root):
                    raise UserError(
                        f"workdir {str(self.path)!r}: {entry.path!r} is a link out of the workdir (or a loop) and "
                        "would be written through; remove it"
                    )


def _stays_within(link: pathlib.Path, root: pathlib.Path) -> bool:
    try:
        return link.resolve().is_relative_to(root)
    except (OSError, RuntimeError):  # a loop
        return False


def volumes(folder: Any, part: str) -> list[Any]:
    """The folders of a part of a pack's checkpoints, as they were begun."""
    found = [path for path in folder.iterdir() if path.name.partition(VOLUME)[0] == part] if folder.exists() else []
    return sorted(found, key=lambda path: int(path.name.partition(VOLUME)[2] or 1))


def _plain(value: Any) -> Any:
    """As JSON reads it back."""
    return json.loads(json.dumps(value))


def _is_housekeeping(name: str) -> bool:
    """True for names that may be in a workdir before its study.json is."""
    return name in ("lost+found", "slurm", lock.FOLDER) or is_temporary(name)


def _stop_at_once(holder: lock.Holder) -> None:
    """Ends this process before two write into one workdir; as after a kill, nothing that is saved is lost."""
    say(f"the workdir was taken over by {holder}; stopping at once")
    os._exit(1)


def say(text: str) -> None:
    """One line to the terminal."""
    print(f"scaling-jax: {text}", file=sys.stderr, flush=True)
