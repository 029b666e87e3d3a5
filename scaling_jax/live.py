"""A study while it trains: a snapshot of its packs, kept in the workdir, and as a table on a terminal.

`run` writes `attempts/<attempt>-<process>.progress.json` every few seconds; `watch` reads the latest of every pack.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import re
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import pydantic

from scaling_jax import text
from scaling_jax.storage import stored_json
from scaling_jax.storage.paths import as_path, write_atomic

SUFFIX = ".progress.json"
# JSON has no nan.
Known = Annotated[float, pydantic.BeforeValidator(lambda value: math.nan if value is None else value)]
STALE_SECONDS = 180.0  # without news from a process that has not finished
WAITING, TRUNK, BRANCH, DONE = "waiting", "trunk", "branch", "done"
# What XLA's C++ logs below an error, and the line before it.
CHATTER = re.compile(r"^(WARNING: All log messages before absl|[IW]\d{4} .*\.cc:\d+\])")


@dataclasses.dataclass(frozen=True)
class Row:
    """One pack.

    Attributes:
      pack: its name.
      state: "waiting", "trunk", "branch" or "done".
      lanes: runs that train side by side.
      step: optimizer steps that each lane has taken, out of `steps`.
      steps: of the trunk and all branches.
      loss: mean training loss of the best lane; nan before the first.
      tokens_per_s: of all lanes together.
      share_of_peak: of the FLOP/s of this machine.
      seconds_left: of this pack; nan while unknown.
    """

    pack: str
    state: str
    lanes: int
    step: int
    steps: int
    loss: Known = math.nan
    tokens_per_s: Known = math.nan
    share_of_peak: Known = math.nan
    seconds_left: Known = math.nan


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """The packs that one process trains, or several processes together.

    Attributes:
      study: its name.
      rows: in the order of the plan.
      share: of all FLOPs that are done.
      seconds: since the start of the command.
      seconds_left: of the study; nan while unknown.
      compile_seconds: spent compiling so far, mostly before the first step of a pack.
      time: when it was taken, seconds since 1970.
    """

    study: str
    rows: tuple[Row, ...]
    share: Known
    seconds: Known
    seconds_left: Known
    compile_seconds: Known
    time: Known

    @property
    def done(self) -> bool:
        """Whether every pack is."""
        return all(row.state == DONE for row in self.rows)

    def save(self, path: Any) -> None:
        """Writes it as JSON, whole or not at all."""
        content = dataclasses.asdict(self)
        write_atomic(as_path(path), json.dumps(_finite(content)))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def load(path: Any) -> Snapshot:
    """A snapshot that `Snapshot.save` wrote.

    Raises:
      ValueError: it is damaged.
    """
    found = stored_json.read(as_path(path), Snapshot)
    if not math.isfinite(found.time):
        raise ValueError("time is not a number")
    return found


def latest(workdir: Any) -> Snapshot | None:
    """Every pack as it was last heard of, whichever process trains it; None where none has reported yet."""
    folder, found = as_path(workdir) / "attempts", []
    for path in folder.glob(f"*{SUFFIX}") if folder.exists() else ():
        with contextlib.suppress(ValueError, OSError):
            found.append(load(path))
    if not found:
        return None
    found.sort(key=lambda snapshot: snapshot.time)
    rows = {row.pack: row for snapshot in found for row in snapshot.rows}
    newest = found[-1]
    return dataclasses.replace(newest, rows=tuple(rows.values()))


def cells(row: Row) -> tuple[str, ...]:
    """pack, lanes, step, loss, tokens/s, % of peak, time left."""
    waiting = row.state == WAITING
    return (
        row.pack, row.state, str(row.lanes), f"{row.step}/{row.steps}", "" if waiting else _number(row.loss, ".3f"),
        "" if waiting else _short(row.tokens_per_s), "" if waiting else _number(100 * row.share_of_peak, ".0f"),
        "" if row.state in (DONE, WAITING) else clock(row.seconds_left).strip(),
    )  # fmt: skip


HEADER = ("pack", "phase", "lanes", "step", "loss", "tokens/s", "% of peak", "time left")


def summary(snapshot: Snapshot, now: float | None = None) -> str:
    """The study in one line."""
    line = f"{snapshot.study}: {100 * snapshot.share:.0f}% after {clock(snapshot.seconds).strip()}"
    if not snapshot.done:
        line += f", time left {clock(snapshot.seconds_left).strip()}"
    if snapshot.compile_seconds > 0.5:
        line += f"; compiling took {snapshot.compile_seconds:.0f} s"
    if now is not None and not snapshot.done and now - snapshot.time > STALE_SECONDS:
        line += f"; no news for {clock(now - snapshot.time).strip()}: stopped, or the process was lost"
    return line


def table(snapshot: Snapshot, height: int = 40, now: float | None = None) -> Any:
    """A `rich` table of at most `height` lines; of many packs those that train, and the next ones."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=None, pad_edge=False)
    for i, name in enumerate(HEADER):
        drawn.add_column(name, justify="left" if i < 2 else "right", no_wrap=True)
    order = {TRUNK: 0, BRANCH: 0, WAITING: 1, DONE: 2}
    shown = snapshot.rows
    if len(shown) > max(height - 4, 3):
        kept = sorted(range(len(shown)), key=lambda i: (order.get(shown[i].state, 1), i))[: max(height - 5, 3)]
        shown = tuple(shown[i] for i in sorted(kept))
    styles = {DONE: "green", WAITING: "dim"}
    for row in shown:
        drawn.add_row(*map(Text, cells(row)), style=styles.get(row.state))
    if len(shown) < len(snapshot.rows):
        drawn.caption, drawn.caption_justify = f"and {len(snapshot.rows) - len(shown)} packs more", "left"
    return Group(Text(summary(snapshot, now), style="bold"), drawn)


class Screen:
    """A table that stays in place on a terminal; everything else that is written to stderr appears above it.

    XLA and other C++ code write to the file descriptor itself, so that is what is taken; their chatter below an error
    is dropped.
    """

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live

        sys.stderr.flush()
        self._saved = os.dup(2)
        reading, writing = os.pipe()
        os.dup2(writing, 2)
        os.close(writing)
        self._console = Console(file=os.fdopen(self._saved, "w", 1, closefd=False), force_terminal=True)
        self._live = Live(
            console=self._console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False, transient=False
        )
        self._live.start()
        self._reader = threading.Thread(target=self._copy, args=(reading,), name="stderr", daemon=True)
        self._reader.start()

    def show(self, snapshot: Snapshot) -> None:
        """Replaces the table."""
        self._live.update(table(snapshot, self._console.height), refresh=True)

    def _copy(self, descriptor: int) -> None:
        from rich.text import Text

        with open(descriptor, errors="replace") as lines:
            for line in lines:
                if not CHATTER.match(line):
                    self._console.print(Text(line.rstrip("\n")))

    def close(self) -> None:
        """Gives the terminal back, the table left as it is."""
        sys.stderr.flush()
        os.dup2(self._saved, 2)
        self._reader.join(1.0)
        self._live.stop()
        os.close(self._saved)


@contextlib.contextmanager
def screen() -> Iterator[Screen | None]:
    """A `Screen` where stderr is a terminal that can move its cursor, else None."""
    if not sys.stderr.isatty() or os.environ.get("TERM", "dumb") == "dumb":
        yield None
        return
    shown = Screen()
    try:
        yield shown
    finally:
        shown.close()


DAY, YEAR = 86_400, 31_557_600  # seconds


def clock(seconds: float) -> str:
    """2:03, 1:02:03, 12.5 days, 3.4 years, or -:-- when unknown."""
    if not math.isfinite(seconds):
        return " -:--"
    if seconds >= 2 * YEAR:
        return f"{text.short(seconds / YEAR)} years"
    if seconds >= 3 * DAY:
        return f"{seconds / DAY:.1f} days"
    minutes, sec = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{sec:02}" if hours else f"{minutes:2}:{sec:02}"


def watched(workdir: Any, every: float) -> Iterator[Snapshot]:
    """The latest snapshot again and again, until every pack is done or nothing was heard for long."""
    while True:
        found = latest(workdir)
        if found is not None:
            yield found
            if found.done or time.time() - found.time > STALE_SECONDS:
                return
        time.sleep(every)


def plain_lines(rows: Sequence[Row]) -> str:
    """The table outside a terminal."""
    return text.table(HEADER, [cells(row) for row in rows], indent="")


def _number(value: float, form: str) -> str:
    return format(value, form) if math.isfinite(value) else "-"


def _short(value: float) -> str:
    return text.short(value) if math.isfinite(value) else "-"
