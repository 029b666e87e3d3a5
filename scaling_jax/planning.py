"""Study -> Runs (N, D, C) -> Packs: runs of one shape, trained together by one compiled program."""

from __future__ import annotations

import dataclasses
import itertools
import math

from scaling_jax.errors import UserError
from scaling_jax.models import optimizers
from scaling_jax.models.family import Counts, Spec
from scaling_jax.study import Study, content_hash


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
      run_id: content hash of what determines its loss.
      trunk_id: the same without the budget: branches off one trunk share it.
      scale: name of the (width, depth).
      lane, budget: indices into the pack's lanes and budgets.
      steps: optimiser steps; `tokens` = steps x batch_size x context.
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
      budgets: optimiser steps of each budget, ascending.
      trained_steps: optimiser steps that one lane really takes (a trunk is shared by its branches).
    """

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
      start, stop: optimiser steps.
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


def phases(schedule, budgets: tuple[int, ...]) -> tuple[Phase, ...]:
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


def make_plan(study: Study, spec: Spec, dataset_hash: str = "") -> tuple[Pack, ...]:
    """The packs of a study, in ladder order.

    Args:
      study: what the user wants.
      spec: what its data looks like.
      dataset_hash: identity of the data, part of every run's identity ("" when nothing will be trained).

    Raises:
      UserError: a scale cannot be built, the optimizer is not registered, or a budget is missing, empty or too small.
    """
    if study.family.inputs != spec.kind:
        raise UserError(
            f"family {study.family.name!r} trains on {study.family.inputs}, but data.source={study.data.source!r} "
            f"gives {spec.kind}; choose another family or data.source"
        )
    optimizers.check(study.optimizer)
    shared = _identity(study, dataset_hash)
    packs = tuple(_pack(study, spec, shared, w, d) for w, d in study.ladder.scales())
    if not any(pack.runs for pack in packs):
        raise UserError("budgets: give at least one of budgets.tokens, budgets.tokens_per_param, budgets.flops")
    return tuple(pack for pack in packs if pack.runs)


def _identity(study: Study, dataset_hash: str) -> dict:
    """What determines the losses of all packs alike, as plain JSON types."""
    resolved = study.to_dict()
    identity = {k: resolved[k] for k in ("family", "data", "parametrization", "schedule", "evaluation")}
    swept = ("learning_rates", "weight_decays", "init_scales")
    identity["optimizer"] = {k: v for k, v in resolved["optimizer"].items() if k not in swept}
    return identity | {"dataset_hash": dataset_hash, "compute_dtype": study.execution.compute_dtype}


def _pack(study: Study, spec: Spec, shared: dict, width: int, depth: int) -> Pack:
    try:
        study.family.check(width, depth, spec)
    except ValueError as error:
        raise UserError(f"scale {scale_name(width, depth)}: {error}") from error
    _check_mesh(study, width, scale_name(width, depth))
    counts = study.family.counts(width, depth, spec)
    optimizer = study.optimizer
    tokens_per_step = optimizer.batch_size * spec.context
    budgets = _budgets(study, counts, tokens_per_step, scale_name(width, depth))
    lanes = tuple(
        Lane(*values)
        for values in itertools.product(
            optimizer.learning_rates, optimizer.weight_decays, optimizer.init_scales, study.seeds
        )
    )
    if len(set(lanes)) < len(lanes):
        raise UserError("optimizer: the same (learning rate, weight decay, init scale, seed) stands twice in the sweep")
    identity = shared | {"width": width, "depth": depth}
    runs = []
    for (i, lane), (j, steps) in itertools.product(enumerate(lanes), enumerate(budgets)):
        trunk = identity | {"lane": dataclasses.asdict(lane)}
        tokens = steps * tokens_per_step
        runs.append(
            Run(
                run_id=content_hash(trunk | {"steps": steps}),
                trunk_id=content_hash(trunk),
                scale=scale_name(width, depth),
                lane=i,
                budget=j,
                steps=steps,
                tokens=tokens,
                flops=float(tokens * counts.flops_per_token),
                flops_6nd=float(tokens * counts.flops_6nd_per_token),
            )
        )
    return Pack(
        scale=scale_name(width, depth),
        width=width,
        depth=depth,
        batch_size=optimizer.batch_size,
        tokens_per_step=tokens_per_step,
        counts=counts,
        lanes=lanes,
        budgets=budgets,
        runs=tuple(runs),
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
