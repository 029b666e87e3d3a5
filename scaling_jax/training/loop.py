"""Trains one pack, resuming from its latest checkpoints, until every run has its result."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any

import jax
import numpy as np
from absl import logging

from scaling_jax.data import batches
from scaling_jax.errors import Preempted
from scaling_jax.planning import NO_DECAY, Pack, Phase
from scaling_jax.storage.records import DIVERGED, DONE, Records
from scaling_jax.study import Execution, Study
from scaling_jax.training import distributed
from scaling_jax.training.checkpoint import TRUNK, PackCheckpoints, Saved, abstract_states, branch_name
from scaling_jax.training.program import LaneProgram

POINT_STEPS = 20  # training losses averaged into one point of a learning curve; the first dispatch takes as many


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
    """

    study: Study
    feed: Any
    records: Records
    finished: Collection[str]
    common: dict[str, Any]
    should_stop: Callable[[], bool]
    on_progress: Callable[[Progress], None]
    on_metrics: Callable[[dict[str, Any]], None] | None = None


class Pace:
    """Chooses how many steps a dispatch takes and when to save: from measured times, yet the same on every process.

    A single process follows every measurement. Several processes use the leader's, after the first dispatch and at
    every save, where they synchronize anyway.

    Args:
      execution: its `dispatch_seconds` and `checkpoint_seconds` are the targets.
      buffer_steps: the most steps of a dispatch.
    """

    def __init__(self, execution: Execution, buffer_steps: int):
        self._execution, self._buffer_steps = execution, buffer_steps
        self._measured = self._step_seconds = 0.0
        self._unsaved_seconds = 0.0

    @property
    def unknown(self) -> bool:
        """True until a dispatch has been timed."""
        return self._step_seconds == 0.0

    def measured(self, step_seconds: float) -> None:
        """Records the seconds per step of a dispatch."""
        self._measured = step_seconds
        if distributed.is_single_process():
            self._step_seconds = step_seconds

    def synchronize(self) -> None:
        """Makes every process use the leader's measurement."""
        (self._step_seconds,) = distributed.broadcast_from_leader([self._measured])

    def chunk(self, left: int) -> int:
        """Steps of the next dispatch when `left` remain in the phase."""
        if self.unknown:
            return min(POINT_STEPS, left)
        wanted = max(1, int(self._execution.dispatch_seconds / self._step_seconds))
        if wanted >= POINT_STEPS:
            wanted -= wanted % POINT_STEPS
        return min(wanted, left, self._buffer_steps)

    def save_is_due(self, count: int) -> bool:
        """Counts `count` more steps; True once `checkpoint_seconds` have passed since the last save."""
        self._unsaved_seconds += count * self._step_seconds
        return self._unsaved_seconds > self._execution.checkpoint_seconds

    def saved(self) -> None:
        """Restarts the clock after a checkpoint."""
        self._unsaved_seconds = 0.0
        self.synchronize()


class PackTrainer:
    """The loop over a pack's phases.

    Args:
      training: settings and callbacks.
      pack: the runs to train.
      program: their compiled functions.
      checkpoints: of this pack.
    """

    def __init__(self, training: Training, pack: Pack, program: LaneProgram, checkpoints: PackCheckpoints):
        self.training, self.pack, self.program, self.checkpoints = training, pack, program, checkpoints
        self.branches = [phase for phase in pack.phases if phase.kind == "branch"]
        self.trunk: Saved | None = None  # where the trunk is, in memory
        self.seconds = 0.0  # of the phase under way
        self.pace = Pace(training.study.execution, program.buffer_steps)
        self.points: dict[tuple[str, str], list[dict[str, Any]]] = {}  # of learning curves, since the last save
        self.last_done = 0.0
        self.on_metrics = training.on_metrics if distributed.is_leader() else None

    def run(self) -> None:
        """Trains every run that has no result yet.

        Raises:
          Preempted: `should_stop` returned True; everything is saved.
        """
        with jax.transfer_guard("disallow"):
            self._run()

    def _run(self) -> None:
        like = abstract_states(self.program.state_shapes, self.program.state_sharding, len(self.program.groups))
        for phase in self.branches:
            if not self._missing_lanes(phase):
                continue
            part = branch_name(phase.stop)
            branch = self.checkpoints.restore(part, like, wanted=phase.lanes)
            if branch is None:
                trunk = self._trunk_at(phase, like)
                branch = Saved(phase.start, trunk.trunk_seconds, 0.0, self.program.copy(trunk.state))
            resumed_at = branch.step
            branch = self._advance(phase, branch)
            if branch.step > resumed_at:
                self._save(part, branch, phase.lanes)
            self._finish_branch(phase, branch)
        self.checkpoints.wait()

    def _trunk_at(self, branch: Phase, like: tuple[Any, ...]) -> Saved:
        """The trunk at the step where `branch` leaves it: from memory or the newest checkpoint before, then trained."""
        fork = branch.start
        reached = -1 if self.trunk is None else self.trunk.step
        if fork > reached:
            wanted = self._going_on(branch)
            self.trunk = self.checkpoints.restore(TRUNK, like, reached, fork, wanted) or self.trunk
        if self.trunk is None:
            self.trunk = Saved(0, 0.0, 0.0, self.program.init())
        if self.trunk.step < fork:
            lanes = self._going_on(branch)
            trunk = Phase("trunk", self.trunk.step, fork, NO_DECAY, NO_DECAY, branch.budget, lanes)
            self.trunk = self._advance(trunk, self.trunk)
            self._save(TRUNK, self.trunk, lanes)
        return self.trunk

    def _going_on(self, branch: Phase) -> tuple[int, ...]:
        """Lanes that have a result at this branch or a later one."""
        return tuple(sorted({lane for phase in self.branches[branch.budget :] for lane in phase.lanes}))

    def _missing_lanes(self, phase: Phase) -> list[int]:
        """Lanes of a branch that have no result yet."""
        finished = self.training.finished
        return [lane for lane in phase.lanes if self.pack.run(lane, phase.budget).run_id not in finished]

    def _advance(self, phase: Phase, at: Saved) -> Saved:
        """Trains from `at` to the end of `phase`; losses of a chunk are fetched while the next one runs."""
        hparams = self.program.hparams(phase)
        step, state, pending = at.step, at.state, None
        self.seconds = at.trunk_seconds if phase.kind == "trunk" else at.branch_seconds
        while step < phase.stop:
            count = self.pace.chunk(phase.stop - step)
            begin = time.monotonic()
            state, losses = self.program.train(state, hparams, step, count)
            if pending is not None:
                self._record(phase, *pending)
            pending = (step, count, losses, begin)
            step += count
            if self.pace.unknown:  # the first chunk is timed alone, to size those that follow
                self._record(phase, *pending)
                pending = None
                self.pace.synchronize()
            stop = self.training.should_stop()
            if stop or (self.pace.save_is_due(count) and step < phase.stop):
                if pending is not None:
                    self._record(phase, *pending)
                    pending = None
                part = TRUNK if phase.kind == "trunk" else branch_name(phase.stop)
                self._save(part, self._reached(phase, at, step, state), phase.lanes)
            if stop:
                self.checkpoints.wait()
                raise Preempted(f"pack {self.pack.name} saved at step {step} of its {phase.kind}")
        if pending is not None:
            self._record(phase, *pending)
        return self._reached(phase, at, step, state)

    def _reached(self, phase: Phase, since: Saved, step: int, state: Any) -> Saved:
        if phase.kind == "trunk":
            return Saved(step, self.seconds, 0.0, state)
        return Saved(step, since.trunk_seconds, self.seconds, state)

    def _record(self, phase: Phase, first: int, count: int, losses: Any, begin: float) -> None:
        """Waits for a chunk and keeps its learning-curve points."""
        by_lane = [loss[:count] for loss in self.program.fetch(losses)]
        now = time.monotonic()
        elapsed = now - max(begin, self.last_done)
        self.last_done = now
        self.pace.measured(elapsed / count)
        self.seconds += elapsed
        for lane in phase.lanes:
            losses_K = by_lane[lane]
            kind, ident = ("trunks", self.pack.trunk_id(lane))
            if phase.kind == "branch":
                kind, ident = "runs", self.pack.run(lane, phase.budget).run_id
            self.points.setdefault((kind, ident), []).extend(
                {"step": first + min(i + POINT_STEPS, count), "first_step": first + i, "loss": float(np.mean(part))}
                for i in range(0, count, POINT_STEPS)
                if np.isfinite(part := losses_K[i : i + POINT_STEPS]).all()  # NaN from where a lane diverged
            )
        means = {lane: float(np.mean(by_lane[lane])) for lane in phase.lanes}
        best = min((mean for mean in means.values() if np.isfinite(mean)), default=float("nan"))
        speed = count * self.pack.tokens_per_step * len(means) / elapsed
        steps_done = sum(other.stop - other.start for other in self.branches[: phase.budget]) + first + count
        self.training.on_progress(Progress(self.pack.name, phase.kind, steps_done, best, speed))
        self._report_losses(phase, first + count, means, speed)

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
                    "tokens_per_s": tokens_per_s / len(losses),
                }
            )

    def _call_on_metrics(self, values: dict[str, Any]) -> None:
        if self.on_metrics is None:
            return
        try:
            self.on_metrics(values)
        except Exception:
            logging.exception("on_metrics failed and is not called again; training continues")
            self.on_metrics = None

    def _finish_branch(self, phase: Phase, branch: Saved) -> None:
        """Evaluates every lane of a finished branch and writes its result."""
        begin = time.monotonic()
        sums = self.program.fetch(self.program.evaluate(branch.state))
        frozen = self.program.fetch(tuple(group["diverged_step"] for group in branch.state))
        wall = branch.trunk_seconds + branch.branch_seconds + time.monotonic() - begin
        self._flush_points()
        for lane in self._missing_lanes(phase):
            self._write_result(lane, phase.budget, sums[lane], int(frozen[lane]), wall / len(phase.lanes))

    def _write_result(self, lane: int, budget: int, sums: Any, diverged_step: int, wall: float) -> None:
        """Writes one run's row of the results table."""
        pack, counts, run = self.pack, self.pack.counts, self.pack.run(lane, budget)
        hparams = pack.lanes[lane]
        metrics = self.program.model.metrics(sums)
        healthy = diverged_step < 0 and np.isfinite(metrics["loss"])
        if not healthy:
            metrics = dict.fromkeys(metrics)
        row = {
            "run_id": run.run_id,
            **self.training.common,
            "scale": pack.scale,
            "width": pack.width,
            "depth": pack.depth,
            "seed": hparams.seed,
            "status": DONE if healthy else DIVERGED,
            "lr": hparams.learning_rate,
            "batch_size": pack.batch_size,
            "params_total": counts.params_total,
            "params_non_embedding": counts.params_non_embedding,
            "params_matmul": counts.params_matmul,
            "tokens": run.tokens,
            "flops": run.flops,
            "flops_6nd": run.flops_6nd,
            **metrics,
            "wall_s": round(wall, 3),
            "trunk_id": run.trunk_id,
            "steps": run.steps,
            "weight_decay": hparams.weight_decay,
            "init_scale": hparams.init_scale,
            "warmup_steps": hparams.warmup_steps,
            "b2": hparams.b2,
            "cooldown_fraction": pack.cooldown_fraction,
            "layout": self.program.execution.layout,
            "compute_dtype": self.program.execution.compute_dtype,
            "tokens_per_s": round(run.tokens / wall) if wall > 0 else None,
            "unique_tokens": self.program.feed.dataset.unique_tokens,
            "epochs": batches.epochs(run.steps, pack.batch_size, self.program.feed.dataset.num_train_windows),
            "diverged_step": diverged_step if not healthy else None,
        }
        if healthy and self.program.feed.spec.kind == "tokens":
            bits = metrics["loss"] / np.log(2.0)
            row["bits_per_byte"] = float(bits / self.program.feed.dataset.bytes_per_token)
            if (unigram := self.program.feed.dataset.info.get("unigram_nats")) is not None:
                row["unigram_normalized"] = metrics["loss"] - unigram
        self.training.records.write_result(row)
        self._call_on_metrics({"kind": "result", **row})

    def _flush_points(self) -> None:
        """Writes the points since the last save; steps lost after it are trained and recorded again."""
        for (kind, ident), points in self.points.items():
            self.training.records.write_points(kind, ident, points)
        self.points.clear()

    def _save(self, part: str, saved: Saved, lanes: Collection[int]) -> None:
        self._flush_points()
        self.checkpoints.save(part, dataclasses.replace(saved, state=self.program.copy(saved.state)), lanes)
        self.pace.saved()


def buffer_steps(pack: Pack, limit: int = 4096) -> int:
    """The most steps that one dispatch of this pack may take."""
    longest = max(phase.stop - phase.start for phase in pack.phases)
    return max(POINT_STEPS, min(limit, longest))


def missing(pack: Pack, finished: Collection[str]) -> bool:
    """True when any run of the pack has no result yet."""
    return any(run.run_id not in finished for run in pack.runs)
