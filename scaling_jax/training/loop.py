"""Trains one pack from wherever it stands to its last result."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from scaling_jax.errors import Preempted
from scaling_jax.plan import Pack, Phase, phases
from scaling_jax.results import DIVERGED, DONE, Records
from scaling_jax.study import Study
from scaling_jax.training.checkpoint import PackCheckpoints, Position, abstract_states
from scaling_jax.training.lanes import LaneProgram

FIRST_CHUNK = 16  # steps of the first dispatch, which is timed to size the next
POINT_STEPS = 20  # training losses averaged into one point of a learning curve


@dataclasses.dataclass(frozen=True)
class Progress:
    """How a pack is doing, after a chunk.

    Attributes:
      scale, phase: names.
      taken: steps taken by each lane over all phases, of the pack's `trained_steps`.
      loss: best lane's mean training loss over the chunk.
      tokens_per_s: all lanes together.
    """

    scale: str
    phase: str
    taken: int
    loss: float
    tokens_per_s: float


class PackTrainer:
    """The loop over a pack's phases.

    Args:
      pack, study: what to train.
      program: compiled functions.
      records: where points and results go.
      checkpoints: of this scale.
      common: columns of the results table that are the same for every run.
      should_stop: asked between chunks; True saves and raises Preempted.
      on_progress: called after every chunk.
    """

    def __init__(
        self,
        pack: Pack,
        study: Study,
        program: LaneProgram,
        records: Records,
        checkpoints: PackCheckpoints,
        common: dict[str, Any],
        should_stop: Callable[[int], bool],
        on_progress: Callable[[Progress], None],
    ):
        self.pack, self.study, self.program = pack, study, program
        self.records, self.checkpoints, self.common = records, checkpoints, common
        self.should_stop, self.on_progress = should_stop, on_progress
        self.phases = phases(study.schedule, pack.budgets)
        self.seconds = [0.0] * len(self.phases)
        self.taken = 0
        self.step_seconds = 0.0
        self.last_save = time.monotonic()
        self.diverged = [-1] * len(pack.lanes)  # step at which a lane froze on the trunk

    def run(self) -> None:
        """Trains what is missing.

        Raises:
          Preempted: `should_stop` said so; everything is saved.
        """
        with jax.transfer_guard("disallow"):
            self._run()

    def _run(self) -> None:
        like = abstract_states(self.program.state_shapes, self.program.state_sharding, len(self.program.groups))
        restored = self.checkpoints.restore(like)
        branch = None
        if restored is None:
            position, trunk = Position(0, self.phases[0].start, 0, ()), self.program.init()
        else:
            position, trunk, branch = restored
            self.seconds[: len(position.seconds)] = position.seconds
        self.taken = position.taken
        for index in range(position.phase, len(self.phases)):
            phase = self.phases[index]
            step = position.step if index == position.phase else phase.start
            if phase.kind == "trunk":
                trunk = self._phase(index, phase, step, trunk, None)
                self._save(index + 1, None, trunk, None, keep=True)
            else:
                # A checkpoint at a branch's first step may hold the final state of the branch before it.
                resumed = index == position.phase and branch is not None and step > phase.start
                state = self._phase(index, phase, step, branch if resumed else self.program.copy(trunk), trunk)
                self._finish_branch(phase, state)
                self._save(index + 1, None, trunk, state, keep=True)
        self.checkpoints.wait()

    def _phase(self, index: int, phase: Phase, step: int, state: Any, trunk: Any | None) -> Any:
        """Runs `phase` from `step`; losses of a chunk are fetched while the next one runs."""
        hparams = self.program.hparams(phase)
        pending = None
        while step < phase.stop:
            count = self._chunk_size(phase.stop - step)
            begin = time.monotonic()
            state, losses = self.program.train(state, hparams, step, count)
            if pending is not None:
                self._record(phase, *pending)
            pending = (step, count, losses, begin)
            step += count
            self.taken += count
            if self.step_seconds == 0.0 and step < phase.stop:
                jax.block_until_ready(losses)  # the first chunk is timed alone, to size those that follow
            due = time.monotonic() - self.last_save > self.study.execution.checkpoint_seconds
            stop = self.should_stop(self.taken)
            if stop or (due and step < phase.stop):
                self._record(phase, *pending)
                pending = None
                if phase.kind == "trunk":
                    self._save(index, step, state, None, keep=False)
                else:
                    self._save(index, step, trunk, state, keep=False)
            if stop:
                self.checkpoints.wait()
                raise Preempted(f"scale {self.pack.scale} saved at step {step} of phase {index}")
        if pending is not None:
            self._record(phase, *pending)
        return state

    def _chunk_size(self, left: int) -> int:
        if self.step_seconds == 0.0:
            return min(FIRST_CHUNK, left)
        wanted = max(1, int(self.study.execution.dispatch_seconds / self.step_seconds))
        if wanted >= POINT_STEPS:
            wanted -= wanted % POINT_STEPS
        return min(wanted, left, self.program.buffer_steps)

    def _record(self, phase: Phase, first: int, count: int, losses: Any, begin: float) -> None:
        """Waits for a chunk and writes its learning-curve points."""
        by_lane = [loss[:count] for loss in self.program.fetch(losses)]
        now = time.monotonic()
        elapsed = now - max(begin, getattr(self, "_last_done", 0.0))
        self._last_done = now
        self.step_seconds = elapsed / count
        self.seconds[self.phases.index(phase)] += elapsed
        for lane, losses_K in enumerate(by_lane):
            run = self.pack.run(lane, max(phase.budget, 0))
            kind, ident = ("trunks", run.trunk_id) if phase.kind == "trunk" else ("runs", run.run_id)
            points = [
                {"step": first + min(i + POINT_STEPS, count), "first_step": first + i, "loss": float(np.mean(part))}
                for i in range(0, count, POINT_STEPS)
                if np.isfinite(part := losses_K[i : i + POINT_STEPS]).all() and part.all()
            ]
            self.records.write_points(kind, ident, points)
        healthy = [np.mean(loss) for loss in by_lane if np.isfinite(loss).all() and loss.all()]
        best = float(min(healthy)) if healthy else float("nan")
        rate = count * self.pack.tokens_per_step * len(by_lane) / elapsed
        self.on_progress(Progress(self.pack.scale, phase.kind, self.taken, best, rate))

    def _finish_branch(self, phase: Phase, state: Any) -> None:
        """Evaluates every lane of a finished branch and writes its result."""
        begin = time.monotonic()
        sums = self.program.fetch(self.program.evaluate(state))
        frozen = self.program.fetch(tuple(group["diverged_step"] for group in state))
        index = self.phases.index(phase)
        self.seconds[index] += time.monotonic() - begin
        before = [i for i, p in enumerate(self.phases) if p.kind == "trunk" and p.stop <= phase.start]
        wall = self.seconds[index] + sum(self.seconds[i] for i in before)
        if self.study.schedule.name == "cosine":
            wall = self.seconds[index]
        for lane, (total, diverged_step) in enumerate(zip(sums, frozen)):
            self._write_result(lane, phase.budget, total, int(diverged_step), wall / len(sums))

    def _write_result(self, lane: int, budget: int, sums: Any, diverged_step: int, wall: float) -> None:
        pack, counts, run = self.pack, self.pack.counts, self.pack.run(lane, budget)
        hparams = pack.lanes[lane]
        metrics = self.program.model.metrics(sums)
        healthy = diverged_step < 0 and np.isfinite(metrics["loss"])
        if not healthy:
            metrics = dict.fromkeys(metrics)
        row = {
            "run_id": run.run_id,
            **self.common,
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
            "layout": self.program.execution.layout,
            "compute_dtype": self.program.execution.compute_dtype,
            "tokens_per_s": round(run.tokens / wall) if wall > 0 else None,
            "epochs": run.steps * pack.batch_size / self.program.feed.dataset.num_train_windows,
            "diverged_step": diverged_step if not healthy else None,
        }
        if healthy and self.program.feed.spec.kind == "tokens":
            bits = metrics["loss"] / np.log(2.0)
            row["bits_per_byte"] = float(bits / self.program.feed.dataset.bytes_per_token)
        self.records.write_result(row)

    def _save(self, phase: int, step: int | None, trunk: Any, branch: Any | None, keep: bool) -> None:
        if step is None:
            step = self.phases[phase].start if phase < len(self.phases) else 0
        position = Position(phase, step, self.taken, tuple(self.seconds))
        copied = None if branch is None else self.program.copy(branch)
        self.checkpoints.save(position, self.program.copy(trunk), copied, keep)
        self.last_save = time.monotonic()


def buffer_steps(pack: Pack, study: Study, limit: int = 4096) -> int:
    """Room for the most steps that one dispatch of this pack may take."""
    longest = max(p.stop - p.start for p in phases(study.schedule, pack.budgets))
    return max(FIRST_CHUNK, min(limit, longest))


def missing(pack: Pack, finished: Sequence[str]) -> bool:
    """Whether any run of the pack has no result yet."""
    done = set(finished)
    return any(run.run_id not in done for run in pack.runs)
