"""Study -> packs: every scale, budget and combination of what is swept, each as numbers."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping
from typing import Any

from scaling_jax import rules
from scaling_jax.errors import UserError
from scaling_jax.models import optimizers
from scaling_jax.models.family import Counts, Spec
from scaling_jax.planning.budgets import Budget, budgets_of, isoflop_scales, scales_of, steps_of, times
from scaling_jax.planning.identities import identified
from scaling_jax.planning.pack import Lane, Pack, Run, cooldown_start, scale_name
from scaling_jax.settings import Start
from scaling_jax.study import Study


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
    _check_read(study)
    study = _within_hours(study, spec)
    packs = _every_pack(study, spec)
    if not packs:
        b = study.budgets
        if b.tokens_per_param or b.flops:
            raise UserError(
                f"budgets.max_tokens={b.max_tokens:g} and budgets.ratio_range={b.ratio_range} leave no budget; "
                "widen them, or give at least one of budgets.tokens, budgets.tokens_per_param, budgets.flops"
            )
        raise UserError("budgets: give at least one of budgets.tokens, budgets.tokens_per_param, budgets.flops")
    return identified(packs, study, spec, dataset_hash, compute_dtype) if dataset_hash else packs


def _every_pack(study: Study, spec: Spec) -> tuple[Pack, ...]:
    counts = {scale: _counts(study, spec, scale) for scale in scales_of(study)}
    sweeps = isoflop_scales(study, counts) if study.budgets.isoflop_sizes else None
    return tuple(pack for scale in counts for pack in _packs(study, spec, scale, counts[scale], sweeps))


def _counts(study: Study, spec: Spec, scale: tuple[int, int]) -> Counts:
    try:
        study.family.check(*scale, spec)
    except ValueError as error:
        raise UserError(f"scale {scale_name(*scale)}: {error}") from error
    return study.family.counts(*scale, spec)


def _within_hours(study: Study, spec: Spec) -> Study:
    """The study with its budgets multiplied so that training takes `budgets.device_hours`."""
    budgets = study.budgets
    if budgets.device_hours is None or budgets.device_flops is None:
        return study
    wanted = 3600 * budgets.device_hours * budgets.device_flops
    # From long budgets, where rounding to steps is small; relative ones such as (1, 2, 4) will do.
    factor = 1e8 / min(budgets.tokens) if budgets.tokens else 1.0
    plain = dataclasses.replace(study, schedule=dataclasses.replace(study.schedule, warmup_steps=0))
    found = []  # (how far off, factor): what a range leaves out, and batches that follow D, change with the factor
    for _ in range(4):
        trial = dataclasses.replace(times(budgets, factor), min_steps=1)
        packs = _every_pack(dataclasses.replace(plain, budgets=trial), spec)
        if not packs:
            break
        ratio = wanted / sum(pack.trained_flops for pack in packs)
        found.append((abs(math.log(ratio)), factor))
        factor *= ratio
    return dataclasses.replace(study, budgets=times(budgets, min(found)[1] if found else factor))


def _check_read(study: Study) -> None:
    """Raises UserError for a list with repeats, and for a sweep over what nothing reads."""
    optimizer, schedule = study.optimizer, study.schedule
    lists = {
        "optimizer": ("learning_rates", "weight_decays", "init_scales", "batch_size", "b2"),
        "schedule": ("warmup_steps", "cooldown_fraction"),
    }
    listed = {f"{part}.{name}": getattr(getattr(study, part), name) for part, names in lists.items() for name in names}
    for field, values in (listed | {"seeds": study.seeds}).items():
        if isinstance(values, tuple) and len(set(values)) < len(values):
            raise UserError(f"{field}={values}: the same value is listed twice")
    if "b2" not in optimizers.rule(optimizer.name).fields and not isinstance(optimizer.b2, float):
        raise UserError(f"optimizer.b2={optimizer.b2!r}: optimizer {optimizer.name!r} does not read it; drop it")
    if schedule.name != "wsd" and not isinstance(schedule.cooldown_fraction, float):
        raise UserError(
            f"schedule.cooldown_fraction={schedule.cooldown_fraction!r}: schedule {schedule.name!r} has no cool-down "
            "of its own; drop it, or set schedule.name=wsd"
        )


@dataclasses.dataclass
class _Draft:
    """A pack that is being put together: lanes in order, and the (lane, steps) that are trained -> their budget."""

    lanes: dict[Lane, int] = dataclasses.field(default_factory=dict)
    trained: dict[tuple[int, int], Budget] = dataclasses.field(default_factory=dict)


def _packs(
    study: Study,
    spec: Spec,
    shape: tuple[int, int],
    counts: Counts,
    sweeps: Mapping[float, set[tuple[int, int]]] | None,
) -> list[Pack]:
    """The packs of one scale: one for each batch size and cool-down."""
    width, depth = shape
    scale = scale_name(width, depth)
    drafts: dict[tuple[int, float], _Draft] = {}
    starts = {seed: _start(study, scale, seed) for seed in study.seeds_of(width, depth)}
    for budget in budgets_of(study, counts, shape, sweeps):
        inputs = {"N": float(counts.params_non_embedding), "D": float(budget.tokens), "T": float(spec.context)}
        where = f"at scale {scale}, {budget.name}"
        for batch_size in _values(study.optimizer.batch_size, "batch_size", inputs, "optimizer.batch_size " + where):
            batch_size = int(batch_size)
            _check_mesh(study, batch_size, width, scale)
            steps = steps_of(study, budget, batch_size * spec.context, scale)
            _add(study, drafts, budget, steps, inputs | {"B": float(batch_size), "S": float(steps)}, starts, where)
    batches, cooldowns = {key[0] for key in drafts}, {key[1] for key in drafts}
    out = []
    for (batch_size, cooldown), draft in drafts.items():
        name = scale + (f"-b{batch_size}" if len(batches) > 1 else "")
        name += f"-c{cooldown:g}" if len(cooldowns) > 1 else ""
        out.append(_pack(study, spec, counts, (width, depth, name), (batch_size, cooldown), draft))
    return out


def _add(
    study: Study,
    drafts: dict[tuple[int, float], _Draft],
    budget: Budget,
    steps: int,
    inputs: Mapping[str, float],
    starts: Mapping[int, Start | None],
    where: str,
) -> None:
    """Adds every combination of what is swept at one scale, budget and batch size."""
    optimizer, schedule = study.optimizer, study.schedule

    def values(setting: Any, quantity: str, field: str) -> list[float]:
        return _values(setting, quantity, inputs, f"{field} {where}")

    rates = values(optimizer.learning_rates, "learning_rate", "optimizer.learning_rates")
    decays = values(optimizer.weight_decays, "weight_decay", "optimizer.weight_decays")
    second = values(optimizer.b2, "b2", "optimizer.b2") if "b2" in optimizers.rule(optimizer.name).fields else [None]
    warmups = [int(v) for v in values(schedule.warmup_steps, "warmup_steps", "schedule.warmup_steps")]
    lanes = [
        Lane(rate, decay, scale, seed, warmup, b2, start)
        for rate, decay, scale, warmup, b2, (seed, start) in itertools.product(
            rates, decays, optimizer.init_scales, warmups, second, starts.items()
        )
    ]
    for cooldown in values(schedule.cooldown_fraction, "cooldown_fraction", "schedule.cooldown_fraction"):
        warm = cooldown_start(steps, cooldown) if schedule.name == "wsd" else steps
        if warm <= max(warmups):
            raise UserError(
                f"{budget.name} is {steps} steps {where.partition(',')[0]}: no step is left after "
                f"schedule.warmup_steps={max(warmups)}; lower it or raise the budget"
            )
        draft = drafts.setdefault((int(inputs["B"]), cooldown), _Draft())
        for lane in lanes:
            draft.trained.setdefault((draft.lanes.setdefault(lane, len(draft.lanes)), steps), budget)


def _start(study: Study, scale: str, seed: int) -> Start | None:
    """Where lanes of a scale and seed start; None for fresh parameters."""
    found = study.init.start_of(scale, seed)
    if found is None and study.init.from_workdir is not None:
        known = ", ".join(dict.fromkeys(start.scale for start in study.init.starts)) or "none yet: use scaling_jax.plan"
        raise UserError(f"init.from_workdir: scale {scale} has no trained run to start from; known: {known}")
    return found


def _values(setting: Any, quantity: str, inputs: Mapping[str, float], where: str) -> list[float]:
    """The different numbers that a setting means for one run, in order."""
    settings = setting if isinstance(setting, tuple) else (setting,)
    return list(dict.fromkeys(rules.resolve(one, quantity, inputs, where) for one in settings))


def _pack(
    study: Study, spec: Spec, counts: Counts, shape: tuple[int, int, str], key: tuple[int, float], draft: _Draft
) -> Pack:
    (width, depth, name), (batch_size, cooldown) = shape, key
    scale, tokens_per_step = scale_name(width, depth), batch_size * spec.context
    budgets = tuple(sorted({steps for _, steps in draft.trained}))
    place = {steps: i for i, steps in enumerate(budgets)}
    runs = tuple(
        Run(
            run_id="",
            trunk_id="",
            scale=scale,
            lane=lane,
            budget=place[steps],
            steps=steps,
            tokens=steps * tokens_per_step,
            flops=float(steps * tokens_per_step * counts.flops_per_token),
            flops_6nd=float(steps * tokens_per_step * counts.flops_6nd_per_token),
        )
        for lane, steps in sorted(draft.trained)
    )
    return Pack(
        name=name,
        scale=scale,
        width=width,
        depth=depth,
        batch_size=batch_size,
        tokens_per_step=tokens_per_step,
        counts=counts,
        schedule=dataclasses.replace(study.schedule, cooldown_fraction=cooldown),
        lanes=tuple(draft.lanes),
        budgets=budgets,
        runs=runs,
    )


def _check_mesh(study: Study, batch_size: int, width: int, scale: str) -> None:
    """Raises UserError when a batch or the parameters do not divide over the study's mesh."""
    execution = study.execution
    _, data, fsdp = execution.mesh or (1, 1, 1)
    for name, size, parts, settings in (
        ("optimizer", batch_size, data * fsdp * execution.microbatches, ("mesh", "microbatches")),
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
