"""Progress of the packs that this process trains: a table in place or plain lines, and a record for `watch`."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax

from scaling_jax import live
from scaling_jax.live import Row, Snapshot, clock
from scaling_jax.planning import Pack
from scaling_jax.storage.paths import is_remote
from scaling_jax.storage.records import Records
from scaling_jax.training.loop import Progress

LINE_SECONDS, SCREEN_SECONDS = 5.0, 0.5
RECORD_SECONDS, REMOTE_RECORD_SECONDS = 5.0, 20.0  # an object store bills every write
COMPILING = "/jax/core/compile/backend_compile_duration"


@contextlib.contextmanager
def reporting(
    study: str, packs: Sequence[Pack], peak_flops: float, records: Records, verbose: bool
) -> Iterator[Callable[[Progress], None]]:
    """Takes the packs' news while they train.

    Args:
      study: its name.
      packs: what this command trains.
      peak_flops: of all devices together.
      records: of the workdir; what does not write keeps no record.
      verbose: whether to show anything.
    """
    place = None
    if records.writes:
        place = records.of_attempt(live.SUFFIX)
    with live.screen() if verbose else contextlib.nullcontext() as screen, _compile_seconds() as compiling:
        reporter = Reporter(study, packs, peak_flops, compiling, place, screen, lines=verbose and screen is None)
        reporter.tell()
        try:
            yield reporter
        finally:
            reporter.tell()


class Reporter:
    """Shows and records where packs are; safe for packs that train side by side.

    Args:
      study: its name.
      packs: what this command trains.
      peak_flops: of all devices together.
      compiling: seconds spent compiling so far, a list of one.
      place: of the record, or None.
      screen: a table in place, or None.
      lines: whether to print plain lines on stderr.
    """

    def __init__(
        self, study: str, packs: Sequence[Pack], peak_flops: float, compiling: Sequence[float] = (0.0,),
        place: Any = None, screen: live.Screen | None = None, lines: bool = True,
    ):  # fmt: skip
        self._study, self._packs = study, {pack.name: pack for pack in packs}
        self._total = sum(pack.trained_flops for pack in packs)
        self._peak, self._compiling, self._place, self._screen, self._lines = (
            peak_flops, compiling, place, screen, lines,
        )  # fmt: skip
        self._latest: dict[str, Progress] = {}
        self._first: dict[str, tuple[int, float]] = {}
        self._begin = time.monotonic()
        self._last_line = self._last_record = self._last_screen = float("-inf")
        self._lock = threading.Lock()

    def __call__(self, progress: Progress) -> None:
        """Takes a pack's news; shows and records it if the last time is long enough ago."""
        with self._lock:
            now = time.monotonic()
            self._first.setdefault(progress.pack, (progress.steps_done, now))
            self._latest[progress.pack] = progress
            finished = progress.steps_done == self._packs[progress.pack].trained_steps
            if self._lines and (finished or now - self._last_line >= LINE_SECONDS):
                self._last_line = now
                print(self._line(progress), file=sys.stderr, flush=True)
            if self._screen is not None and (finished or now - self._last_screen >= SCREEN_SECONDS):
                self._last_screen = now
                self._screen.show(self.snapshot())
            remote = self._place is not None and is_remote(self._place)
            if now - self._last_record >= (REMOTE_RECORD_SECONDS if remote else RECORD_SECONDS):
                self._record(now)

    def tell(self) -> None:
        """Shows and records where the packs are now."""
        with self._lock:
            if self._screen is not None:
                self._screen.show(self.snapshot())
            self._record(time.monotonic())

    def snapshot(self) -> Snapshot:
        """Where every pack is."""
        elapsed, done, left = self._study_so_far()
        return Snapshot(
            self._study, tuple(map(self._row, self._packs.values())), done / self._total, elapsed, left,
            self._compiling[0], time.time(),
        )  # fmt: skip

    def _row(self, pack: Pack) -> Row:
        news = self._latest.get(pack.name)
        if news is None:
            return Row(pack.name, live.WAITING, len(pack.lanes), 0, pack.trained_steps)
        finished = news.steps_done >= pack.trained_steps
        first, since = self._first[pack.name]
        elapsed, taken = time.monotonic() - since, news.steps_done - first
        left = (pack.trained_steps - news.steps_done) * elapsed / taken if taken > 0 else float("nan")
        return Row(
            pack.name, live.DONE if finished else news.phase, len(pack.lanes), news.steps_done, pack.trained_steps,
            news.loss, news.tokens_per_s, self._share(news), 0.0 if finished else left,
        )  # fmt: skip

    def _record(self, now: float) -> None:
        if self._place is None:
            return
        self._last_record = now
        with contextlib.suppress(OSError):  # a full disk must not end what is saved next
            self.snapshot().save(self._place)

    def _share(self, progress: Progress) -> float:
        return progress.tokens_per_s * self._packs[progress.pack].counts.flops_per_token / self._peak

    def _study_so_far(self) -> tuple[float, float, float]:
        """(seconds, FLOPs done, seconds left)."""
        elapsed = time.monotonic() - self._begin
        done = sum(self._flops(name, news.steps_done) for name, news in self._latest.items())
        new = done - sum(self._flops(name, first) for name, (first, _) in self._first.items())
        return elapsed, done, (self._total - done) / (new / elapsed) if new > 0 and elapsed > 1 else float("nan")

    def _line(self, progress: Progress) -> str:
        pack = self._packs[progress.pack]
        elapsed, done, left = self._study_so_far()
        return (
            f"[{clock(elapsed)}] {pack.name:<9} {progress.phase:<6} "
            f"{100 * progress.steps_done / pack.trained_steps:3.0f}%"
            f"  loss {progress.loss:.3f}  {si(progress.tokens_per_s)} tokens/s"
            f"  {100 * self._share(progress):.0f}% of peak"
            f"  | ladder {100 * done / self._total:.0f}%  ETA {clock(left)}"
        )

    def _flops(self, scale: str, taken: int) -> float:
        pack = self._packs[scale]
        return pack.trained_flops * taken / pack.trained_steps


@contextlib.contextmanager
def _compile_seconds() -> Iterator[list[float]]:
    """Seconds that XLA spends compiling meanwhile, in a list of one; of a cached program next to nothing."""
    total, active = [0.0], [True]

    def add(event: str, duration_secs: float, **kwargs: Any) -> None:
        if active[0] and event == COMPILING:
            total[0] += duration_secs

    jax.monitoring.register_event_duration_secs_listener(add)  # JAX has no way to take it off again
    try:
        yield total
    finally:
        active[0] = False


def si(value: float) -> str:
    """Three digits and a prefix: 12.3k, 4.56M."""
    for factor, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= 0.9995 * factor:  # 999.9k reads 1M
            return f"{value / factor:.3g}{prefix}"
    return f"{value:.3g}"
