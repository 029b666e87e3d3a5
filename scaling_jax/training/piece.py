"""Trains one piece of a pack's work on one program: the trunk up to a fork, or branches side by side."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from scaling_jax.errors import Preempted
from scaling_jax.planning import Pack, Phase
from scaling_jax.training.pace import POINT_STEPS, Pace
from scaling_jax.training.program import LaneProgram

Points = dict[tuple[str, str], list[dict[str, Any]]]  # of learning curves, by kind ("runs", "trunks") and identity


@dataclasses.dataclass(frozen=True)
class Piece:
    """Steps that one program takes in one go.

    Attributes:
      kind: "trunk" or "branch".
      phases: one of the trunk, or the branches that are trained side by side.
    """

    kind: str
    phases: tuple[Phase, ...]


@dataclasses.dataclass
class Way:
    """How far a phase has come.

    Attributes:
      step: optimizer steps taken.
      seconds: spent on it.
      saved: step of its latest checkpoint.
    """

    step: int
    seconds: float
    saved: int


class PieceTrainer:
    """The loop over the steps of a piece.

    Args:
      pack: the runs to train.
      program: compiled for as many branches as the piece has phases, at least.
      piece: what to train.
      ways: of its phases, where they are; None for branches that need no training.
      pace: chooses the chunks.
      should_stop: polled between chunks; True saves and raises `Preempted`.
      save: called with (points since the last save, states); keeps every way whose step is not its saved one.
      on_chunk: called with (mean losses of lanes by branch, tokens per second, begin, end) of a chunk.
    """

    def __init__(
        self,
        pack: Pack,
        program: LaneProgram,
        piece: Piece,
        ways: Sequence[Way | None],
        pace: Pace,
        should_stop: Callable[[], bool],
        save: Callable[[Points, Any], None],
        on_chunk: Callable[..., None],
    ):
        self.pack, self.program, self.piece, self.ways, self.pace = pack, program, piece, ways, pace
        self._should_stop, self._save, self._on_chunk = should_stop, save, on_chunk
        self.points: Points = {}  # since the last save
        self._last_done = 0.0

    def advance(self, state: Any) -> Any:
        """Trains to the end of the piece; losses of a chunk are fetched while the next one runs.

        Returns:
          The states; the end of the piece is for the caller to `save`.

        Raises:
          Preempted: `should_stop` returned True; everything is saved.
        """
        phases = self.piece.phases
        hparams = self.program.hparams(*(phase if way else None for phase, way in zip(phases, self.ways)))
        steps, pending = [way.step if way else 0 for way in self.ways], None

        def record() -> None:
            nonlocal pending
            if pending is not None:
                self._record(*pending)
            pending = None

        while any(left := [phase.stop - step if way else 0 for phase, way, step in zip(phases, self.ways, steps)]):
            chunk = self.pace.chunk(max(left))
            counts = [min(chunk, n) for n in left]
            begin = time.monotonic()
            state, losses = self.program.train(state, hparams, steps, counts)
            record()
            pending = (steps, counts, losses, begin)
            steps = [step + count for step, count in zip(steps, counts)]
            if self.pace.unknown:  # the first chunk is timed alone, to size those that follow
                record()
                self.pace.synchronize()
            stop = self._should_stop()
            if stop or (self.pace.save_is_due(chunk) and max(left) > chunk):
                record()
                self.save(state)
            if stop:
                raise Preempted(f"pack {self.pack.name} saved at step {max(steps)} of its {self.piece.kind}")
        record()
        return state

    def save(self, state: Any) -> None:
        """Saves what has moved since the last save."""
        if all(way is None or way.step == way.saved for way in self.ways):
            return
        points, self.points = self.points, {}
        self._save(points, state)
        for way in self.ways:
            if way is not None:
                way.saved = way.step
        self.pace.saved()

    def _record(self, firsts: list[int], counts: list[int], losses: Any, begin: float) -> None:
        """Waits for a chunk and keeps its learning-curve points."""
        fetched = self.program.fetch(losses)
        now = time.monotonic()
        begin, self._last_done = max(begin, self._last_done), now
        self.pace.measured((now - begin) / max(counts))
        num_lanes = len(self.pack.lanes)
        means: list[dict[int, float]] = []
        for branch, (phase, way, first, count) in enumerate(zip(self.piece.phases, self.ways, firsts, counts)):
            lanes = {lane: fetched[branch * num_lanes + lane][:count] for lane in phase.lanes}
            means.append({lane: float(np.mean(losses_K)) for lane, losses_K in lanes.items()} if count else {})
            if way is None:
                continue
            way.step, way.seconds = first + count, way.seconds + (now - begin) * count / sum(counts)
            for lane, losses_K in lanes.items():
                key = ("trunks", self.pack.trunk_id(lane))
                if phase.kind == "branch":
                    key = ("runs", self.pack.run(lane, phase.budget).run_id)
                self.points.setdefault(key, []).extend(
                    {"step": first + min(i + POINT_STEPS, count), "first_step": first + i, "loss": float(np.mean(part))}
                    for i in range(0, count, POINT_STEPS)
                    if np.isfinite(part := losses_K[i : i + POINT_STEPS]).all()  # NaN from where a lane diverged
                )
        steps = sum(count * len(phase.lanes) for phase, count in zip(self.piece.phases, counts))
        speed = steps * self.pack.tokens_per_step / (now - begin)
        self._on_chunk(means, speed, begin, now)
