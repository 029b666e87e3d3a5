"""One line every few seconds: which scale, how fast, how much of the machine's peak, how long still."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Sequence

from scaling_jax import text
from scaling_jax.planning import Pack
from scaling_jax.training.loop import Progress

LINE_SECONDS = 5.0
DAY, YEAR = 86_400, 31_557_600  # seconds


class Reporter:
    """Prints plain lines, readable in a terminal and in a log; safe for packs that train side by side.

    Args:
      packs: what this command trains.
      peak_flops: of all devices together.
      done_flops: FLOPs of these packs that earlier attempts did.
    """

    def __init__(self, packs: Sequence[Pack], peak_flops: float):
        self._packs = {pack.name: pack for pack in packs}
        self._total = sum(pack.trained_flops for pack in packs)
        self._peak = peak_flops
        self._latest: dict[str, Progress] = {}
        self._first: dict[str, int] = {}
        self._begin = time.monotonic()
        self._last_line = 0.0
        self._lock = threading.Lock()

    def __call__(self, progress: Progress) -> None:
        """Takes a pack's news; prints if the last line is old enough."""
        with self._lock:
            self._first.setdefault(progress.pack, self._latest_taken(progress))
            self._latest[progress.pack] = progress
            now = time.monotonic()
            finished = progress.steps_done == self._packs[progress.pack].trained_steps
            if finished or now - self._last_line >= LINE_SECONDS:
                self._last_line = now
                print(self._line(progress), file=sys.stderr, flush=True)

    def _latest_taken(self, progress: Progress) -> int:
        latest = self._latest.get(progress.pack)
        return latest.steps_done if latest else progress.steps_done

    def _line(self, progress: Progress) -> str:
        pack = self._packs[progress.pack]
        elapsed = time.monotonic() - self._begin
        done = sum(self._flops(scale, p.steps_done) for scale, p in self._latest.items())
        new = done - sum(self._flops(scale, taken) for scale, taken in self._first.items())
        eta = (self._total - done) / (new / elapsed) if new > 0 and elapsed > 1 else float("nan")
        share = progress.tokens_per_s * pack.counts.flops_per_token / self._peak
        return (
            f"[{clock(elapsed)}] {pack.name:<9} {progress.phase:<6} "
            f"{100 * progress.steps_done / pack.trained_steps:3.0f}%"
            f"  loss {progress.loss:.3f}  {si(progress.tokens_per_s)} tokens/s  {100 * share:.0f}% of peak"
            f"  | ladder {100 * done / self._total:.0f}%  ETA {clock(eta)}"
        )

    def _flops(self, scale: str, taken: int) -> float:
        pack = self._packs[scale]
        return pack.trained_flops * taken / pack.trained_steps


def clock(seconds: float) -> str:
    """2:03, 1:02:03, 12.5 days, 3.4 years, or -:-- when unknown."""
    if seconds != seconds:
        return " -:--"
    if seconds >= 2 * YEAR:
        return f"{text.short(seconds / YEAR)} years"
    if seconds >= 3 * DAY:
        return f"{seconds / DAY:.1f} days"
    minutes, sec = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{sec:02}" if hours else f"{minutes:2}:{sec:02}"


def si(value: float) -> str:
    """Three digits and a prefix: 12.3k, 4.56M."""
    for factor, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= 0.9995 * factor:  # 999.9k reads 1M
            return f"{value / factor:.3g}{prefix}"
    return f"{value:.3g}"
