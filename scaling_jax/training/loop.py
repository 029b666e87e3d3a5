"""Trains one pack piece by piece, resuming from its latest checkpoints, until every run has its result."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from absl import logging

from scaling_jax.planning import NO_DECAY, Pack, Phase
from scaling_jax.storage.records import Records
from scaling_jax.study import Study
from scaling_jax.training import distributed
from scaling_jax.training.checkpoint import TRUNK, PackCheckpoints, Saved
from scaling_jax.training.feed import device_memory
from scaling_jax.training.pace import POINT_STEPS, Pace
from scaling_jax.training.piece import Piece, PieceTrainer, Points, Way
from scaling_jax.training.program import LaneProgram
from scaling_jax.training.rows import result_row
from scaling_jax.training.trace import Trace

FORK_SHARE = 0.1  # of a device's memory that states may take which wait for their branches or to be evaluated


@dataclasses.dataclass(frozen=True)
class Progress:
    """Progress of a pack after a chunk of steps.

    Attributes:
      pack: name of the pack.
      phase: "trunk" or "branch".
      steps_done: steps that each lane has taken over all phases, out of the pack's `trained_steps`.
      loss: mean training loss of the best lane over the chunk; NaN when every lane has diverged.
      tokens_per_s: of all lanes together.
    """

    pack: str
    phase: str
    steps_done: int
    loss: float
    tokens_per_s: float


@dataclasses.dataclass(frozen=True)
class Training:
    """Settings and callbacks shared by the packs of one engine call.

    Attributes:
      study: the study to train.
      feed: its data, a `ResidentFeed` or `StreamFeed`.
      records: writes learning-curve points and results.
      finished: run_ids that already have a result.
      common: columns of the results table that are the same for every run.
      should_stop: polled between chunks; True saves and raises `Preempted`.
      on_progress: called after every chunk of every pack.
      on_metrics: called on the leader with plain dicts, {"kind": "train", ...} per lane and chunk and
        {"kind": "result", ...} per finished run: the hook for experiment trackers. It is called one chunk late, from
        losses that were fetched anyway, so it never makes the device wait. An exception is logged once and ends the
        calls, not the training.
      trace: what which device did when.
      starts: parameters of every lane of a pack of a study with `init`, on the host; None makes fresh ones.
    """

    study: Study
    feed: Any
    records: Records
    finished: Collection[str]
    common: dict[str, Any]
    should_stop: Callable[[], bool]
    on_progress: Callable[[Progress], None]
    on_metrics: Callable[[dict[str, Any]], None] | None = None
    trace: Trace = dataclasses.field(default_factory=Trace)
    starts: Callable[[Pack], Sequence[Any]] | None = None


class PackTrainer:
    """A pack as pieces of work, of which several may be trained at a time, in threads and on devices of their own.

    A branch is ready once its trunk has reached the fork, or where an earlier attempt left it. Every piece of a pack
    runs the same program on as many devices, so neither the order of the pieces nor the devices change a bit of it.

    Args:
      training: settings and callbacks.
      pack: the runs to train.
      checkpoints: of this pack.
      together: branches that one program trains side by side.
    """

    def __init__(self, training: Training, pack: Pack, checkpoints: PackCheckpoints, together: int = 1):
        self.training, self.pack, self.checkpoints, self.together = training, pack, checkpoints, together
        branches = self._branches = [phase for phase in pack.phases if phase.kind == "branch"]
        self._waiting = [tuple(branches[i : i + together]) for i in range(0, len(branches), together)]
        self._waiting = [wave for wave in self._waiting if any(map(self.missing_lanes, wave))]
        self._lock = threading.RLock()
        self._running: list[Piece] = []
        there = checkpoints.parts()
        self._reached = {0} | (checkpoints.steps(TRUNK) if TRUNK in there else set())  # where the trunk can resume
        left = [b.budget for b in branches if pack.branch_name(b.budget) in there and self.missing_lanes(b)]
        self._begun = {budget for budget in left if checkpoints.steps(pack.branch_name(budget))}
        self._trunk: Saved | None = None  # where the trunk is, in memory
        self._forks: dict[int, Saved] = {}  # of branches that wait, in memory
        self._step_seconds: dict[int, float] = {}  # measured, by branches that are trained together
        self._steps: dict[int | str, int] = {  # taken, by part
            branch.budget: 0 if self.missing_lanes(branch) else branch.stop - branch.start for branch in branches
        }
        reached = max(self._reached | {b.start for b in branches if not self.missing_lanes(b)})
        self._steps[TRUNK] = min(reached, branches[-1].start)
        self._on_metrics = training.on_metrics if distributed.is_leader() else None

    # What there is to do.

    def missing_lanes(self, phase: Phase) -> list[int]:
        """Lanes of a branch that have no result yet."""
        finished = self.training.finished
        return [lane for lane in phase.lanes if self.pack.run(lane, phase.budget).run_id not in finished]

    def _available(self, branch: Phase) -> bool:
        return branch.budget in self._begun or branch.start in self._reached or not self.missing_lanes(branch)

    def ready(self) -> list[Piece]:
        """Pieces that may be trained now: branches by budget, then the trunk up to the next fork."""
        with self._lock:
            pieces = [Piece("branch", wave) for wave in self._waiting if all(map(self._available, wave))]
            blocked = [b for wave in self._waiting for b in wave if not self._available(b)]
            if blocked and not any(piece.kind == "trunk" for piece in self._running):
                first = min(blocked, key=lambda branch: branch.start)
                begin = max(step for step in self._reached if step < first.start)
                going_on = {lane for branch in self._branches[first.budget :] for lane in branch.lanes}
                lanes = tuple(sorted(going_on))
                trunk = Phase("trunk", begin, first.start, NO_DECAY, NO_DECAY, first.budget, lanes)
                pieces.append(Piece("trunk", (trunk,)))
            return pieces

    @property
    def done(self) -> bool:
        """True once nothing is left, and nothing runs."""
        with self._lock:
            return not self._waiting and not self._running

    def steps_left(self) -> tuple[int, int]:
        """(steps of a lane that are in no piece under way, those of them that must be taken one after another)."""
        with self._lock:
            branches = [b for wave in self._waiting for b in wave if self.missing_lanes(b)]
            lengths = [b.stop - b.start for b in branches]
            blocked = [b for b in branches if not self._available(b)]
            begin = max((step for step in self._reached if not blocked or step < blocked[0].start), default=0)
            paths = [b.stop - b.start + (b.start - begin if b in blocked else 0) for b in branches]
            trunk = max((b.start for b in blocked), default=begin) - begin
            return sum(lengths) + trunk, max(paths, default=0)

    def step_seconds(self) -> float | None:
        """Measured seconds of a step of every lane; None before anything was trained."""
        return min(self._step_seconds.values(), default=None)

    # Training.

    def run(self, program: LaneProgram, branches: LaneProgram | None = None) -> None:
        """Trains every run that has no result yet, one piece after another, results as early as possible.

        Args:
          program: of the trunk.
          branches: of several branches side by side; by default, the same.

        Raises:
          Preempted: `should_stop` returned True; everything is saved.
        """
        while pieces := self.ready():
            self.begin(pieces[0])
            self.train(pieces[0], program if pieces[0].kind == "trunk" else branches or program)
        self.checkpoints.wait()

    def begin(self, piece: Piece) -> None:
        """Takes a piece of `ready`, which is then to be trained."""
        with self._lock:
            self._running.append(piece)
            if piece.kind == "branch":
                self._waiting.remove(piece.phases)

    def train(self, piece: Piece, program: LaneProgram, release: Callable[[], None] = lambda: None) -> None:
        """Trains a piece that was begun.

        Args:
          piece: one of `ready`.
          program: compiled for it.
          release: called once its steps are taken, where there is memory to train another piece while this one is
            saved and evaluated.

        Raises:
          Preempted: `should_stop` returned True; everything is saved.
        """
        try:
            with jax.transfer_guard("disallow"):
                (self._train_trunk if piece.kind == "trunk" else self._train_branches)(piece, program, release)
        finally:
            with self._lock:
                self._running.remove(piece)

    def _train_trunk(self, piece: Piece, program: LaneProgram, release: Callable[[], None]) -> None:
        """From memory or the newest checkpoint before the fork, else from the beginning."""
        fork, lanes = piece.phases[0].stop, piece.phases[0].lanes
        with self._lock:
            at, self._trunk = self._trunk, None
        if at is not None and at.step > fork:
            at = None
        reached = -1 if at is None else at.step
        at = self.checkpoints.restore(TRUNK, program.part_like, reached, fork, wanted=lanes) or at
        at = at or Saved(0, 0.0, 0.0, program.init(self._params()))
        way, kept = Way(at.step, at.trunk_seconds, at.step), at

        def save(points: Points, state: Any) -> None:
            nonlocal kept
            begin = time.monotonic()
            self._write_points(points)
            if kept.step != way.step:
                kept = Saved(way.step, way.seconds, 0.0, program.copy(state))
            self.checkpoints.save(TRUNK, kept, lanes)
            self._traced("save", program, begin, time.monotonic())

        trainer = self._trainer(program, piece, [way], save)
        state = trainer.advance(program.place(at.state))
        if moved := way.step > at.step:
            kept = Saved(way.step, way.seconds, 0.0, program.copy(state))
        with self._lock:
            self._reached.add(fork)
            fits = moved and self._fits(state, program, len(self._forks) + 1)
            if fits:
                self._forks[fork] = kept
            if not fits or any(branch.start > fork for wave in self._waiting for branch in wave):
                self._trunk = Saved(way.step, way.seconds, 0.0, state)
        if self._fits(state, program):
            release()
        trainer.save(state)

    def _train_branches(self, piece: Piece, program: LaneProgram, release: Callable[[], None]) -> None:
        """From where they were left, else from the trunk; then evaluates them and writes their results."""
        starts = [self._start(phase, program) if self.missing_lanes(phase) else None for phase in piece.phases]
        if any(self.missing_lanes(phase) and at is None for phase, at in zip(piece.phases, starts)):
            with self._lock:  # a checkpoint could not be read: the trunk has to get there again
                self._waiting = sorted([*self._waiting, piece.phases], key=lambda wave: wave[0].budget)
            return
        ways = [at and Way(at.step, at.branch_seconds, at.step) for at in starts]
        trunk_seconds = [at.trunk_seconds if at else 0.0 for at in starts]

        def save(points: Points, state: Any) -> None:
            begin = time.monotonic()
            self._write_points(points)
            for i, (phase, way) in enumerate(zip(piece.phases, ways)):
                if way is not None and way.step > way.saved:
                    part = Saved(way.step, trunk_seconds[i], way.seconds, program.part(state, i))
                    self.checkpoints.save(self.pack.branch_name(phase.budget), part, phase.lanes)
            self._traced("save", program, begin, time.monotonic())

        trainer = self._trainer(program, piece, ways, save)
        state = program.join([at and at.state for at in starts])
        del starts  # frees the states of the forks
        state = trainer.advance(state)
        if self._fits(state, program):
            release()
        trainer.save(state)
        self._finish(piece, program, state, trainer, trunk_seconds)

    def _fits(self, state: Any, program: LaneProgram, number: int = 1) -> bool:
        """Whether so many states like this one may wait in the memory of the devices."""
        size = sum(leaf.nbytes for leaf in jax.tree.leaves(state)) / program.mesh.size
        return size * number <= FORK_SHARE * device_memory()

    def _start(self, branch: Phase, program: LaneProgram) -> Saved | None:
        """Step at which a branch resumes, else its fork; None when the trunk has to reach that fork again."""
        if branch.budget in self._begun:
            part = self.pack.branch_name(branch.budget)
            if found := self.checkpoints.restore(part, program.part_like, wanted=branch.lanes):
                return found
            self._begun.discard(branch.budget)
        with self._lock:
            fork = self._forks.pop(branch.start, None)
            if fork is None and self._trunk is not None and self._trunk.step == branch.start:
                fork = self._trunk
            if fork is not None:  # copied before the trunk continues
                return dataclasses.replace(fork, state=program.part(program.place(fork.state), 0))
        fork = branch.start
        found = self.checkpoints.restore(TRUNK, program.part_like, fork - 1, fork, wanted=branch.lanes)
        if found is None and branch.start == 0:
            found = Saved(0, 0.0, 0.0, program.init_part(self._params()))
        if found is None:
            with self._lock:
                self._reached.discard(branch.start)
        return found

    def _params(self) -> Sequence[Any] | None:
        """What the lanes start from; None for fresh parameters."""
        with jax.transfer_guard("allow"):
            return None if self.training.starts is None else self.training.starts(self.pack)

    def _trainer(
        self,
        program: LaneProgram,
        piece: Piece,
        ways: Sequence[Way | None],
        save: Callable[[Points, Any], None],
    ) -> PieceTrainer:
        together = program.branches
        pace = Pace(self.training.study.execution, program.buffer_steps, self._step_seconds.get(together, 0.0))

        def on_chunk(means: list[dict[int, float]], speed: float, begin: float, end: float) -> None:
            with self._lock:
                self._step_seconds[together] = pace.step_seconds
                for phase, way in zip(piece.phases, ways):
                    if way is not None:
                        part = TRUNK if piece.kind == "trunk" else phase.budget
                        self._steps[part] = way.step - (0 if piece.kind == "trunk" else phase.start)
                steps_done = sum(self._steps.values())
            self._traced(piece.kind, program, begin, end)
            best = min((mean for lanes in means for mean in lanes.values() if np.isfinite(mean)), default=float("nan"))
            self.training.on_progress(Progress(self.pack.name, piece.kind, steps_done, best, speed))
            for phase, way, losses in zip(piece.phases, ways, means):
                if way is not None and losses:
                    self._report_losses(phase, way.step, losses, speed / sum(map(len, means)))

        return PieceTrainer(self.pack, program, piece, ways, pace, self.training.should_stop, save, on_chunk)

    def _traced(self, kind: str, program: LaneProgram, begin: float, end: float) -> None:
        devices = [device.id for device in program.mesh.devices.flat]
        self.training.trace.add(kind, self.pack.name, devices, begin, end)

    def _report_losses(self, phase: Phase, step: int, losses: Mapping[int, float], tokens_per_s: float) -> None:
        """Hands every lane's mean loss over a chunk to `on_metrics`."""
        for i, loss in losses.items():
            lane = self.pack.lanes[i]
            self._call_on_metrics(
                {
                    "kind": "train",
                    "run_id": None if phase.kind == "trunk" else self.pack.run(i, phase.budget).run_id,
                    "trunk_id": self.pack.trunk_id(i),
                    "scale": self.pack.scale,
                    "phase": phase.kind,
                    "lr": lane.learning_rate,
                    "seed": lane.seed,
                    "step": step,
                    "tokens": step * self.pack.tokens_per_step,
                    "loss": loss,
                    "tokens_per_s": tokens_per_s,
                }
            )

    def _call_on_metrics(self, values: dict[str, Any]) -> None:
        if self._on_metrics is None:
            return
        try:
            self._on_metrics(values)
        except Exception:
            logging.exception("on_metrics failed and is not called again; training continues")
            self._on_metrics = None

    def _write_points(self, points: Points) -> None:
        """Writes the points since the last save; steps lost after it are trained and recorded again."""
        for (kind, ident), some in points.items():
            self.training.records.write_points(kind, ident, some)

    # Results.

    def _finish(
        self,
        piece: Piece,
        program: LaneProgram,
        state: Any,
        trainer: PieceTrainer,
        trunk_seconds: Sequence[float],
    ) -> None:
        """Evaluates every lane of finished branches and writes their results."""
        begin = time.monotonic()
        sums = program.fetch(program.evaluate(state))
        frozen = program.fetch(tuple(group["diverged_step"] for group in state))
        end = time.monotonic()
        self._traced("evaluate", program, begin, end)
        self._write_points(trainer.points)
        num_lanes, trained = len(self.pack.lanes), sum(way is not None for way in trainer.ways)
        for i, (phase, way) in enumerate(zip(piece.phases, trainer.ways)):
            if way is None:
                continue
            wall = trunk_seconds[i] + way.seconds + (end - begin) / trained
            for lane in self.missing_lanes(phase):
                slot = i * num_lanes + lane
                row = result_row(
                    self.pack, program, lane, phase.budget, sums[slot], int(frozen[slot]), wall / len(phase.lanes)
                )
                row = {"run_id": row["run_id"], **self.training.common, **row}
                self.training.records.write_result(row)
                self._call_on_metrics({"kind": "result", **row})


def buffer_steps(pack: Pack, limit: int = 4096) -> int:
    """The most steps that one dispatch of this pack may take."""
    longest = max(phase.stop - phase.start for phase in pack.phases)
    return max(POINT_STEPS, min(limit, longest))
