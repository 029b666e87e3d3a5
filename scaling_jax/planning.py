"""Study -> Runs (N, D, C) -> Packs: runs of one shape, trained together by one compiled program."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from scaling_jax.errors import UserError
from scaling_jax.identity import Identity, PackRecord
from scaling_jax.models import optimizers
from scaling_jax.models.family import Counts, Spec
from scaling_jax.scales import at_scale, scales
from scaling_jax.study import Execution, Schedule, Study

SWEPT = ("learning_rates", "weight_decays", "init_scales", "batch_size")
OPTIMIZER_FIELDS = ("b1", "b2", "eps", "momentum")  # of `Optimizer`, read by some optimizers and not by others


@dataclasses.dataclass(frozen=True)
class Lane:
    """A run's place in a pack: the hyperparameters that are data of the compiled program, not constants."""

    learning_rate: float
    weight_decay: float
    init_scale: float
    seed: int


@dataclasses.dataclass(frozen=True)
class Run:
    """One training to one token budget with one set of hyperparameters and seed.

    Attributes:
      run_id: content hash of what determines its loss; "" until the corpus is known.
      trunk_id: the same without the budget: branches off one trunk share it.
      scale: name of the (width, depth).
      lane, budget: indices into the pack's lanes and budgets.
      steps: optimizer steps; `tokens` = steps x batch_size x context.
      flops: exact training FLOPs; `flops_6nd` = 6 x params_matmul x tokens.
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


@dataclasses.dataclass(frozen=True)
class Pack:
    """Runs of one shape, one compiled program: every lane trains to every budget.

    Attributes:
      name: of the pack, unique in its workdir: the scale's, with a number where a study has grown by further lanes.
      scale: name of the (width, depth).
      budgets: optimizer steps of each budget, ascending.
      trained_steps: optimizer steps that one lane takes in all (a trunk is shared by its branches).
    """

    name: str
    scale: str
    width: int
    depth: int
    batch_size: int
    tokens_per_step: int
    counts: Counts
    lanes: tuple[Lane, ...]
    budgets: tuple[int, ...]
    runs: tuple[Run, ...]
    trained_steps: int

    @property
    def trained_flops(self) -> float:
        """FLOPs the whole pack costs."""
        return float(self.trained_steps * self.tokens_per_step * self.counts.flops_per_token * len(self.lanes))

    def run(self, lane: int, budget: int) -> Run:
        """The run of this lane to this budget (indices)."""
        return self.runs[lane * len(self.budgets) + budget]


@dataclasses.dataclass(frozen=True)
class Phase:
    """Consecutive steps of every lane under one schedule: a piece of the trunk, or a branch off its end.

    Attributes:
      kind: "trunk" moves the trunk on; "branch" starts from the trunk's state and ends in a result.
      start, stop: optimizer steps.
      decay_start, decay_stop: where the rate decays; equal and beyond `stop` on a trunk.
      budget: index of the budget that a branch ends in, -1 on a trunk.
    """

    kind: str
    start: int
    stop: int
    decay_start: int
    decay_stop: int
    budget: int


NO_DECAY = 2**31 - 1


def phases(schedule: Schedule, budgets: tuple[int, ...]) -> tuple[Phase, ...]:
    """The order in which a pack's steps are taken, small budgets first so that results come early.

    "wsd": trunk to (1 - cooldown_fraction) of each budget, then its cool-down. "constant": the branch is empty and the
    result is the trunk's. "cosine": every budget is a branch off step 0.
    """
    out, reached = [], 0
    for i, steps in enumerate(budgets):
        if schedule.name == "cosine":
            fork, decay = 0, (schedule.warmup_steps, steps)
        elif schedule.name == "constant":
            fork, decay = steps, (NO_DECAY, NO_DECAY)
        else:
            fork = steps - max(1, round(schedule.cooldown_fraction * steps))
            decay = (fork, steps)
        if fork > reached:
            out.append(Phase("trunk", reached, fork, NO_DECAY, NO_DECAY, -1))
            reached = fork
        out.append(Phase("branch", fork, steps, *decay, i))
    return tuple(out)


def scale_name(width: int, depth: int) -> str:
    return f"w{width}-d{depth}"


def make_plan(study: Study, spec: Spec, dataset_hash: str = "", compute_dtype: str | None = None) -> tuple[Pack, ...]:
    """The packs of a study, in ladder order.

    Args:
      study: what the user wants.
      spec: what its data looks like.
      dataset_hash: identity of the corpus; without it the runs have no identities yet (see `identified`).
      compute_dtype: of `identified`.

    Raises:
      UserError: a scale cannot be built, the optimizer is not registered, or a budget is missing, empty or too small.
    """
    if study.family.inputs != spec.kind:
        raise UserError(
            f"family {study.family.name!r} trains on {study.family.inputs}, but data.source={study.data.source!r} "
            f"gives {spec.kind}; choose another family or data.source"
        )
    optimizers.check(study.optimizer)
    packs = tuple(_pack(at_scale(study, scale), spec, *scale) for scale in scales(study))
    packs = tuple(pack for pack in packs if pack.runs)
    if not packs:
        raise UserError("budgets: give at least one of budgets.tokens, budgets.tokens_per_param, budgets.flops")
    return identified(packs, study, spec, dataset_hash, compute_dtype) if dataset_hash else packs


def identified(
    packs: Sequence[Pack], study: Study, spec: Spec, dataset_hash: str, compute_dtype: str | None = None
) -> tuple[Pack, ...]:
    """The packs with the identities of their runs.

    Args:
      packs: of `make_plan`.
      study, spec: they were planned for.
      dataset_hash: identity of the corpus.
      compute_dtype: that "auto" stands for; by default this process's (see `compute_dtype_of`).
    """
    dtype = compute_dtype or compute_dtype_of(study.execution)
    identity = Identity(frame(study, spec), dataset_hash, dtype, study.optimizer.batch_size)

    def one(pack: Pack, run: Run) -> Run:
        shape = (pack.width, pack.depth, pack.lanes[run.lane])
        return dataclasses.replace(run, run_id=identity.run_id(*shape, run.steps), trunk_id=identity.trunk_id(*shape))

    return tuple(dataclasses.replace(pack, runs=tuple(one(pack, run) for run in pack.runs)) for pack in packs)


def frame(study: Study, spec: Spec) -> dict[str, Any]:
    """What all runs of a workdir share, as plain JSON types; the corpus' content and the swept quantities come on top.

    Settings that the chosen optimizer, schedule or parametrization does not read are left out.

    Args:
      study: the study.
      spec: what its data looks like to a model.
    """
    resolved = study.to_dict()
    optimizer, schedule, parametrization = (resolved[k] for k in ("optimizer", "schedule", "parametrization"))
    unread = {*SWEPT, *OPTIMIZER_FIELDS} - {*optimizers.rule(study.optimizer.name).fields}
    if study.optimizer.spike_policy == "keep":
        unread.add("spike_factor")
    if study.schedule.name != "wsd":
        del schedule["cooldown_fraction"]
    if study.schedule.name == "constant":
        del schedule["final_fraction"]
    if study.parametrization.name == "standard":
        del parametrization["base_width"]
    if study.parametrization.name != "completep":
        parametrization.pop("base_depth", None)
    data = {"kind": spec.kind, "vocab_size": spec.vocab_size, "context": spec.context}
    if spec.kind == "images":
        data |= {"image_shape": list(spec.image_shape or ()), "augment": study.data.augment}
    return {
        "family": resolved["family"],
        "parametrization": parametrization,
        "schedule": schedule,
        "optimizer": {k: v for k, v in optimizer.items() if k not in unread},
        "data": data,
        "evaluation": resolved["evaluation"],
    }


def compute_dtype_of(execution: Execution, backend: str | None = None) -> str:
    """`execution.compute_dtype`, "auto" resolved: bfloat16 on accelerators, float32 on CPU.

    Args:
      execution: of a study.
      backend: "cpu", "gpu" or "tpu"; this process's by default.
    """
    if execution.compute_dtype != "auto":
        return execution.compute_dtype
    return "float32" if (backend or jax.default_backend()) == "cpu" else "bfloat16"


def grouped(packs: Sequence[Pack], recorded: Mapping[str, PackRecord]) -> tuple[Pack, ...]:
    """The packs as a workdir that may have grown trains them: lanes stay in the pack that they began in.

    Lanes that no recorded pack of their scale has become a pack of their own, named `w32-d1-2`, `w32-d1-3`, ...

    Args:
      packs: of `identified`, one per scale.
      recorded: packs of the workdir by name.
    """
    out = []
    for pack in packs:
        same_scale = {name: record for name, record in recorded.items() if record.scale == pack.scale}
        home = {trunk_id: name for name, record in same_scale.items() for trunk_id in record.lanes}
        names = (f"{pack.scale}-{number}" if number > 1 else pack.scale for number in itertools.count(1))
        fresh = next(name for name in names if name not in recorded)
        members: dict[str, list[int]] = {}
        for lane in range(len(pack.lanes)):
            members.setdefault(home.get(pack.run(lane, 0).trunk_id, fresh), []).append(lane)
        out += [_subset(pack, name, lanes) for name, lanes in members.items()]
    return tuple(out)


def _subset(pack: Pack, name: str, lanes: Sequence[int]) -> Pack:
    """The pack of some of the lanes (indices)."""
    runs = tuple(
        dataclasses.replace(pack.run(old, budget), lane=new)
        for (new, old), budget in itertools.product(enumerate(lanes), range(len(pack.budgets)))
    )
    return dataclasses.replace(pack, name=name, lanes=tuple(pack.lanes[i] for i in lanes), runs=runs)


def record_of(pack: Pack, schedule: Schedule) -> PackRecord:
    """What a workdir keeps of the pack for as long as it may grow."""
    trunks = tuple(pack.run(lane, 0).trunk_id for lane in range(len(pack.lanes)))
    forks = tuple(sorted({phase.start for phase in phases(schedule, pack.budgets) if phase.kind == "branch"}))
    return PackRecord(pack.scale, trunks, forks)


def _pack(study: Study, spec: Spec, width: int, depth: int) -> Pack:
    scale, optimizer = scale_name(width, depth), study.optimizer
    try:
        study.family.check(width, depth, spec)
    except ValueError as error:
        raise UserError(f"scale {scale}: {error}") from error
    _check_mesh(study, width, scale)
    counts = study.family.counts(width, depth, spec)
    tokens_per_step = optimizer.batch_size * spec.context
    budgets = _budgets(study, counts, tokens_per_step, scale)
    swept = (optimizer.learning_rates, optimizer.weight_decays, optimizer.init_scales, study.seeds)
    lanes = tuple(Lane(*values) for values in itertools.product(*swept))
    if len(set(lanes)) < len(lanes):
        raise UserError("optimizer: the same (learning rate, weight decay, init scale, seed) is listed twice")
    runs = tuple(
        Run(
            run_id="",
            trunk_id="",
            scale=scale,
            lane=lane,
            budget=budget,
            steps=steps,
            tokens=steps * tokens_per_step,
            flops=float(steps * tokens_per_step * counts.flops_per_token),
            flops_6nd=float(steps * tokens_per_step * counts.flops_6nd_per_token),
        )
        for lane, (budget, steps) in itertools.product(range(len(lanes)), enumerate(budgets))
    )
    return Pack(
        name=scale,
        scale=scale,
        width=width,
        depth=depth,
        batch_size=optimizer.batch_size,
        tokens_per_step=tokens_per_step,
        counts=counts,
        lanes=lanes,
        budgets=budgets,
        runs=runs,
        trained_steps=sum(p.stop - p.start for p in phases(study.schedule, budgets)),
    )


def _check_mesh(study: Study, width: int, scale: str) -> None:
    """Raises UserError when a batch or the parameters do not divide over the study's mesh."""
    execution = study.execution
    _, data, fsdp = execution.mesh or (1, 1, 1)
    for name, size, parts, settings in (
        ("optimizer", study.optimizer.batch_size, data * fsdp * execution.microbatches, ("mesh", "microbatches")),
        ("evaluation", study.evaluation.batch_size, data * fsdp, ("mesh",)),
    ):
        if size % parts:
            why = " and ".join(f"execution.{setting}={getattr(execution, setting)}" for setting in settings)
            raise UserError(f"{name}.batch_size={size} is not divisible by {parts}, the parts that {why} make of it")
    if width % fsdp:
        raise UserError(
            f"scale {scale}: width {width} is not divisible by {fsdp}, the parts that execution.mesh={execution.mesh} "
            "makes of the parameters"
        )


def _budgets(study: Study, counts: Counts, tokens_per_step: int, scale: str) -> tuple[int, ...]:
    """Optimiser steps of every budget of one scale, ascending, each once."""
    budgets = study.budgets
    tokens = {t: f"budgets.tokens={t:g}" for t in budgets.tokens}
    ranged = {k * counts.params_non_embedding: f"budgets.tokens_per_param={k:g}" for k in budgets.tokens_per_param}
    low, high = (r * counts.params_non_embedding for r in budgets.ratio_range)
    for flops in budgets.flops:
        wanted = flops / counts.flops_per_token
        if low <= wanted <= high:
            ranged[wanted] = f"budgets.flops={flops:g}"
    tokens |= {t: name for t, name in ranged.items() if t <= budgets.max_tokens}
    steps = {}
    for wanted, name in tokens.items():
        count = round(wanted / tokens_per_step)
        if count < 1:
            raise UserError(
                f"{name} is {wanted:,.0f} tokens at scale {scale}, less than one batch "
                f"({tokens_per_step:,} tokens); raise it or lower optimizer.batch_size"
            )
        if count >= NO_DECAY:
            raise UserError(f"{name} is {count:.3g} steps at scale {scale}: more than 32 bits can count; lower it")
        if count < budgets.min_steps:
            raise UserError(
                f"{name} is {count} steps at scale {scale}, fewer than budgets.min_steps={budgets.min_steps}; "
                "raise it, lower optimizer.batch_size or budgets.min_steps"
            )
        steps[count] = name
    schedule = study.schedule
    for count, name in steps.items():
        warm = count if schedule.name != "wsd" else count - round(schedule.cooldown_fraction * count)
        if warm <= schedule.warmup_steps:
            raise UserError(
                f"{name} is {count} steps at scale {scale}: no step is left after schedule.warmup_steps="
                f"{schedule.warmup_steps}; lower it or raise the budget"
            )
    return tuple(sorted(steps))


def memory_bytes(study: Study, pack: Pack, spec: Spec, mesh: tuple[int, int, int], execution) -> int:
    """Estimated peak bytes on one device: a step's, and the states of the trunk that wait while a branch trains.

    Args:
      mesh: sizes of the (run, data, fsdp) axes.
      execution: resolved.
    """
    lanes = math.ceil(len(pack.lanes) / mesh[0])
    return step_bytes(study, pack, spec, mesh, execution) + lanes * _state_bytes(study, pack) // mesh[2]


def step_bytes(study: Study, pack: Pack, spec: Spec, mesh: tuple[int, int, int], execution) -> int:
    """Estimated peak bytes of the compiled step on one device (beside XLA's own in benchmarks/memory.md): states,
    gradients, and activations of the lanes that are live at once (all under vmap, else one)."""
    run, data, fsdp = mesh
    lanes = math.ceil(len(pack.lanes) / run)
    gradients = 4 * pack.counts.params_total * (2 if execution.microbatches > 1 else 1)  # a part's and their sum
    if execution.compute_dtype == "bfloat16":
        # Half-precision weights; a scan over layers holds all of them, as they are and as the backward pass wants them.
        gradients += (6 if execution.scan_layers else 2) * pack.counts.params_total
    batch = math.ceil(pack.batch_size / (execution.microbatches * data * fsdp))
    activations = study.family.activation_bytes(pack.width, pack.depth, spec, batch, execution)
    live = lanes if execution.layout == "vmap" else 1
    return int(lanes * _state_bytes(study, pack) // fsdp + live * (gradients // fsdp + activations))


def _state_bytes(study: Study, pack: Pack) -> int:
    """Parameters and the optimizer's state of one lane."""
    counts = pack.counts
    hidden = counts.params_non_embedding  # its vectors are a small share
    state = optimizers.rule(study.optimizer.name).state_size(hidden, counts.params_total - hidden)
    return 4 * (counts.params_total + state)
