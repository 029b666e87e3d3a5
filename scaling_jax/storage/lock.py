"""One process at a time per pack of a workdir: lock files that name the process that trains it, with a heartbeat.

A holder on this machine is judged by its process id, one elsewhere by whether its heartbeat moves while we watch, so
that clocks need not agree. Works wherever files can be replaced whole: local disks, NFS, gs://. Where the file system
has no advisory locks (object stores), two processes that start within the same second are told apart by reading the
file again; see docs/operations.md for the race that this leaves open.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import json
import os
import pathlib
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from absl import logging

from scaling_jax.errors import InUse
from scaling_jax.storage import stored_json
from scaling_jax.storage.paths import as_path, file_lock, is_remote, write_atomic

BEAT_SECONDS = 10.0
STALE_SECONDS = 60.0
SETTLE_SECONDS = 1.0  # on object stores: how long after writing the lock it is read again
FOLDER = "locks"
GUARD = ".guard"


@dataclasses.dataclass(frozen=True)
class Holder:
    """The process that holds a pack.

    Attributes:
      token: of this one claim.
      pid, host: of the process.
      started: start of the process in clock ticks since boot, since process ids are used again.
      machine: boot and pid namespace within which `pid` means something; "" where the system does not tell.
      since: unix time of the claim.
      beat: counts the heartbeats.
    """

    token: str
    pid: int
    host: str
    started: str
    machine: str
    since: float
    beat: int

    def __str__(self) -> str:
        since = datetime.datetime.fromtimestamp(self.since).astimezone().isoformat(" ", "seconds")
        return f"pid {self.pid} on {self.host} since {since}"

    def alive(self) -> bool | None:
        """True while the process runs; None when that cannot be known from here."""
        if (self.host, self.machine) != (socket.gethostname(), _machine()):
            return None
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            pass
        return _started(self.pid) == self.started


def read(workdir: Any, name: str) -> Holder | None:
    """The process that claimed a pack, dead or alive; None when nobody has."""
    path = as_path(workdir) / FOLDER / f"{name}.json"
    try:
        return stored_json.read(path, Holder)
    except FileNotFoundError:
        return None
    except ValueError as error:
        logging.warning("%s is unreadable (%s); treated as stale", path, error)
        return None


def others(workdir: Any) -> list[Holder]:
    """Holders of any pack, other processes than this one, that are alive or may be."""
    folder = as_path(workdir) / FOLDER
    names = [path.stem for path in folder.glob("*.json")] if folder.exists() else []
    holders = [holder for name in names if (holder := read(workdir, name)) is not None]
    this = (os.getpid(), socket.gethostname(), _machine())
    return [h for h in holders if (h.pid, h.host, h.machine) != this and h.alive() is not False]


def check(workdir: Any, names: Sequence[str]) -> None:
    """Raises InUse when a process that is known to be alive trains one of these packs."""
    for name in names:
        holder = read(workdir, name)
        if holder is not None and holder.alive():
            raise _in_use(workdir, name, holder)


class Lock:
    """Context manager that holds packs of a workdir.

    Args:
      workdir: local folder (which exists) or gs:// path.
      names: of the packs.
      on_lost: called from the heartbeat with the new holder when somebody has taken a pack over.
      beat_seconds: between heartbeats.
      stale_seconds: without a heartbeat, after which a holder on another machine counts as dead.
    """

    def __init__(
        self,
        workdir: Any,
        names: Sequence[str],
        on_lost: Callable[[Holder], None],
        beat_seconds: float = BEAT_SECONDS,
        stale_seconds: float = STALE_SECONDS,
    ):
        self.workdir, self.names = as_path(workdir), tuple(names)
        self._on_lost, self._beat_seconds, self._stale_seconds = on_lost, beat_seconds, stale_seconds
        pid = os.getpid()
        self._mine = Holder(uuid.uuid4().hex, pid, socket.gethostname(), _started(pid), _machine(), time.time(), 0)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="lock", daemon=True)

    def __enter__(self) -> Lock:
        self._acquire()
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._ended.set()
        self._thread.join()
        with _guard(self.workdir):
            for name, holder in self._holders().items():
                if holder.token == self._mine.token:
                    (self.workdir / FOLDER / f"{name}.json").unlink(missing_ok=True)

    def _acquire(self) -> None:
        first, begin = None, time.monotonic()
        while True:
            with _guard(self.workdir):
                holders = self._holders()
                stale = time.monotonic() - begin >= self._stale_seconds
                doubtful = {}
                for name, holder in holders.items():
                    alive = holder.alive()
                    if alive or (first is not None and first.get(name) != holder):
                        raise _in_use(self.workdir, name, holder)
                    if alive is None and not stale:
                        doubtful[name] = holder
                if not doubtful:
                    self._write()
                    break
            if first is None:
                first = holders
                who = ", ".join(sorted({str(holder) for holder in doubtful.values()}))
                _say(f"workdir {self.workdir} is held by {who}; watching its heartbeat for {self._stale_seconds:g} s")
            time.sleep(min(1.0, self._beat_seconds / 4))
        if is_remote(self.workdir):
            time.sleep(SETTLE_SECONDS)
            for name, winner in self._holders().items():
                if winner.token != self._mine.token:
                    raise _in_use(self.workdir, name, winner)
        for who in sorted({str(holder) for holder in holders.values()}):
            _say(f"taking over workdir {self.workdir} from {who}, which is gone")

    def _holders(self) -> dict[str, Holder]:
        """Holders of the packs that have one."""
        return {name: holder for name in self.names if (holder := read(self.workdir, name)) is not None}

    def _keep(self) -> None:
        while not self._ended.wait(self._beat_seconds):
            try:
                with _guard(self.workdir):
                    for holder in self._holders().values():
                        if holder.token != self._mine.token:
                            self._on_lost(holder)
                            return
                    self._mine = dataclasses.replace(self._mine, beat=self._mine.beat + 1)
                    self._write()
            except Exception as error:  # a full disk or a lost network must not end training
                logging.warning("heartbeat of %s: %s", self.workdir, error)

    def _write(self) -> None:
        for name in self.names:
            write_atomic(self.workdir / FOLDER / f"{name}.json", json.dumps(dataclasses.asdict(self._mine), indent=1))


def _in_use(workdir: Any, name: str, holder: Holder) -> InUse:
    return InUse(
        f"workdir {str(workdir)!r} is in use: pack {name} is trained by {holder}; wait for it, or stop it, or give "
        "another --workdir"
    )


@contextlib.contextmanager
def _guard(workdir: Any) -> Iterator[None]:
    """Makes read-judge-write one step among the processes of this machine (and of an NFS with locks)."""
    with contextlib.nullcontext() if is_remote(workdir) else file_lock(workdir / FOLDER / GUARD):
        yield


def _started(pid: int) -> str:
    """Field 22 of /proc/<pid>/stat; "" where there is no such thing, or the process is dead and only not yet reaped."""
    try:
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "" if fields[0] in "ZX" else fields[19]
    except (OSError, IndexError):
        return ""


def _machine() -> str:
    """Boot and pid namespace; "" where the system does not tell."""
    try:
        boot = pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _say(text: str) -> None:
    print(f"scaling-jax: {text}", file=sys.stderr, flush=True)
