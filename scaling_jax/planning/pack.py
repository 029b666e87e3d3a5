"""Runs, and the packs and phases in which they are trained."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from scaling_jax.models.family import Counts
from scaling_jax.settings import Start
from scaling_jax.study import Schedule, Study


@dataclasses.dataclass(frozen=True, slots=True)
class Lane:
    """A run's place in a pack: the hyperparameters that are data of the compiled program, not constants.

    Attributes:
      b2: None where the optimizer has no second moment.
      start: the trained run that its parameters come from; None for fresh ones.
    """

    learning_rate: float
    weight_decay: float
    init_scale: float
    seed: int
    warmup_steps: int
    b2: float | None = None
    start: Start | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Run:
    """One training to one token budget with one set of hyperparameters and seed.

    Attributes:
      run_id: content hash of what determines its loss; "" until the corpus is known.
      trunk_id: the same without the budget: branches off one trunk share it.
      scale: name of the (width, depth).
      lane, budget: indices into the pack's lanes and budgets.
      steps: optimizer steps; `tokens` = steps x batch_size x context.
      flops: exact training FLOPs; `flops_6nd` = 6 x params_matmul x tokens.
      wanted: tokens that the study asks for, before they were rounded to whole steps.
      rung: whether it only serves to choose the lanes that go on (`planning.rounds`), and is no result of the study.
    """

    run_id: str
    trunk_id: str
    scale: str
    lane: int
    budget: int
    steps: int
    tokens: int
    flops: float
    flops_6nd: float
    wanted: float = 0.0
    rung: bool = False


@dataclasses.dataclass(frozen=True)
class Pack:
    """Runs of one shape, one compiled program. A lane trains to every budget unless it is given some of them only.

    Attributes:
      name: of the pack, unique in its workdir: the scale's, with the batch size where it is swept, and a number where a
        study has grown by further lanes.
      scale: name of the (width, depth).
      schedule: the study's.
      budgets: optimizer steps of each budget, in the order in which they leave the trunk; one for each length and
        cool-down.
      cooldowns: share of each budget that is its cool-down.
      runs: by lane, then by budget.
      own_cooldown: the cool-down that the identities of the trunks name; None where several share a trunk.
      aliases: by lane, other identities under which a workdir may know its trunk.
    """

    name: str
    scale: str
    width: int
    depth: int
    batch_size: int
    tokens_per_step: int
    counts: Counts
    schedule: Schedule
    lanes: tuple[Lane, ...]
    budgets: tuple[int, ...]
    cooldowns: tuple[float, ...]
    runs: tuple[Run, ...]
    own_cooldown: float | None = None
    aliases: tuple[tuple[str, ...], ...] = ()

    def cooldown(self, budget: int) -> float | None:
        """Share of a budget (index) that is its cool-down; None for schedules without one."""
        return self.cooldowns[budget] if self.schedule.name == "wsd" else None

    def branch_name(self, budget: int) -> str:
        """Name of the part of the pack's checkpoints that holds the branch to a budget (index)."""
        cooldown = self.cooldown(budget)
        return branch_name(self.budgets[budget], None if cooldown == self.own_cooldown else cooldown)

    @functools.cached_property
    def _by_place(self) -> dict[tuple[int, int], Run]:
        return {(run.lane, run.budget): run for run in self.runs}

    def run(self, lane: int, budget: int) -> Run:
        """The run of this lane to this budget (indices).

        Raises:
          KeyError: the lane does not train to it.
        """
        return self._by_place[lane, budget]

    def runs_of(self, lane: int) -> list[Run]:
        """The runs of a lane, by budget."""
        return [run for b in range(len(self.budgets)) if (run := self._by_place.get((lane, b))) is not None]

    def columns(self, run: Run) -> dict[str, Any]:
        """What a row of the results table says of a run before it is trained."""
        lane = self.lanes[run.lane]
        return {
            "run_id": run.run_id,
            "scale": self.scale,
            "width": self.width,
            "depth": self.depth,
            "seed": lane.seed,
            "lr": lane.learning_rate,
            "batch_size": self.batch_size,
            "params_total": self.counts.params_total,
            "params_non_embedding": self.counts.params_non_embedding,
            "params_matmul": self.counts.params_matmul,
            "tokens": run.tokens,
            "flops": run.flops,
            "flops_6nd": run.flops_6nd,
        }

    def settings(self, run: Run) -> dict[str, Any]:
        """`columns`, and the settings of a run that a study may sweep."""
        lane = self.lanes[run.lane]
        return {
            **self.columns(run),
            "trunk_id": run.trunk_id,
            "steps": run.steps,
            "weight_decay": lane.weight_decay,
            "init_scale": lane.init_scale,
            "warmup_steps": lane.warmup_steps,
            "b2": lane.b2,
            "cooldown_fraction": self.cooldown(run.budget),
        }

    def trunk_id(self, lane: int) -> str:
        """Identity that the runs of a lane share."""
        return self.runs_of(lane)[0].trunk_id

    @functools.cached_property
    def phases(self) -> tuple[Phase, ...]:
        """The order in which the steps are taken, each with the lanes that take part."""
        last = [self.runs_of(lane)[-1].budget for lane in range(len(self.lanes))]
        out, budget = [], 0
        for phase in phases(self.schedule, self.budgets, self.cooldowns):
            if phase.kind == "branch":
                budget = phase.budget
                lanes = tuple(lane for lane in range(len(self.lanes)) if (lane, budget) in self._by_place)
                budget += 1
            else:
                lanes = tuple(lane for lane in range(len(self.lanes)) if last[lane] >= budget)
            out.append(dataclasses.replace(phase, lanes=lanes))
        return tuple(out)

    @property
    def is_whole(self) -> bool:
        """Every lane trains to every budget."""
        return len(self.runs) == len(self.lanes) * len(self.budgets)

    @property
    def trained_steps(self) -> int:
        """Steps of all phases: those that a lane takes in all which trains to every budget (branches share a trunk)."""
        return sum(phase.stop - phase.start for phase in self.phases)

    @property
    def trained_flops(self) -> float:
        """FLOPs the whole pack costs."""
        steps = sum((phase.stop - phase.start) * len(phase.lanes) for phase in self.phases)
        return float(steps * self.tokens_per_step * self.counts.flops_per_token)

    def settled(self, study: Study) -> Study:
        """The study with this pack's own batch size and b2: what its program is compiled for."""
        b2 = {lane.b2 for lane in self.lanes if lane.b2 is not None}
        changes = {"batch_size": self.batch_size} | ({"b2": min(b2)} if len(b2) == 1 else {})
        return dataclasses.replace(study, optimizer=dataclasses.replace(study.optimizer, **changes))


def arranged(pack: Pack, runs: Mapping[tuple[int, int, float], Run]) -> Pack:
    """The pack with these runs, given by (lane, steps, cool-down), each at its place among the budgets."""
    branches = branches_of(pack.schedule, runs)
    place = {end: i for i, end in enumerate(branches)}
    placed = [
        run if run.budget == place[steps, share] else dataclasses.replace(run, budget=place[steps, share])
        for (_, steps, share), run in runs.items()
    ]
    return dataclasses.replace(
        pack,
        budgets=tuple(steps for steps, _ in branches),
        cooldowns=tuple(cooldown for _, cooldown in branches),
        runs=tuple(sorted(placed, key=lambda run: (run.lane, run.budget))),
    )


def branches_of(schedule: Schedule, runs: Iterable[tuple[int, int, float]]) -> list[tuple[int, float]]:
    """(steps, cool-down) of runs (lane, steps, cool-down), in the order in which they leave the trunk."""
    branches = sorted({(steps, cooldown) for _, steps, cooldown in runs})
    return sorted(branches, key=lambda end: fork_of(schedule, *end))


@dataclasses.dataclass(frozen=True)
class Phase:
    """Consecutive steps of every lane under one schedule: a piece of the trunk, or a branch off its end.

    Attributes:
      kind: "trunk" moves the trunk on; "branch" starts from the trunk's state and ends in a result.
      start, stop: optimizer steps.
      decay_start, decay_stop: where the rate decays; equal and beyond `stop` on a trunk. A cosine decays from the
        end of each lane's warm-up.
      budget: index of the budget that a branch ends in, -1 on a trunk.
      lanes: indices of those that take part; the others are frozen.
    """

    kind: str
    start: int
    stop: int
    decay_start: int
    decay_stop: int
    budget: int
    lanes: tuple[int, ...] = ()


NO_DECAY = 2**31 - 1


def phases(schedule: Schedule, budgets: Sequence[int], cooldowns: Sequence[float]) -> tuple[Phase, ...]:
    """The order in which a pack's steps are taken, small budgets first so that results come early.

    "wsd": trunk to (1 - cool-down) of each budget, then its cool-down. "constant": the branch is empty and the result
    is the trunk's. "cosine": every budget is a branch off step 0.

    Args:
      schedule: its name is read.
      budgets: optimizer steps, in the order of `fork_of`.
      cooldowns: of each budget.
    """
    out, reached = [], 0
    for i, (steps, cooldown) in enumerate(zip(budgets, cooldowns)):
        fork = fork_of(schedule, steps, cooldown)
        decay = (NO_DECAY, NO_DECAY) if schedule.name == "constant" else (fork, steps)
        if fork > reached:
            out.append(Phase("trunk", reached, fork, NO_DECAY, NO_DECAY, -1))
            reached = fork
        out.append(Phase("branch", fork, steps, *decay, i))
    return tuple(out)


def fork_of(schedule: Schedule, steps: int, cooldown: float) -> int:
    """Step at which a run of so many steps leaves its trunk."""
    if schedule.name == "wsd":
        return steps - max(1, round(cooldown * steps))
    return 0 if schedule.name == "cosine" else steps


def branch_name(steps: int, cooldown: float | None = None) -> str:
    """Name of the part of a pack's checkpoints that holds a branch of so many optimizer steps.

    Args:
      steps: where it ends.
      cooldown: its share, where the trunk's identity does not name it.
    """
    return f"branch-{steps}" + ("" if cooldown is None else f"-c{cooldown!r}")


def scale_name(width: int, depth: int) -> str:
    return f"w{width}-d{depth}"
