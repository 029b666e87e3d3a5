"""Study -> packs: every scale, budget and combination of what is swept, each as numbers."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from scaling_jax import rules
from scaling_jax.errors import UserError
from scaling_jax.models import optimizers
from scaling_jax.models.family import Counts, Spec
from scaling_jax.planning import rounds
from scaling_jax.planning.budgets import Budget, budgets_of, isoflop_scales, scales_of, steps_of, times
from scaling_jax.planning.identities import identified
from scaling_jax.planning.pack import Lane, Pack, Run, arranged, branches_of, fork_of, scale_name
from scaling_jax.settings import Start
from scaling_jax.study import Budgets, Study

HOURS_OFF, HOURS_STEP = 0.01, 1.2  # of the FLOPs that `budgets.device_hours` asks for; between factors that are tried


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
    if study.sweep == "halving":
        rounds.check(packs)
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
    """The study with its budgets multiplied so that training takes `budgets.device_hours`.

    Raises:
      UserError: what its ranges leave in takes another time at every factor.
    """
    budgets = study.budgets
    if budgets.device_hours is None or budgets.device_flops is None:
        return study
    wanted = 3600 * budgets.device_hours * budgets.device_flops
    plain = dataclasses.replace(study, schedule=dataclasses.replace(study.schedule, warmup_steps=0))

    def spent(budgets: Budgets, factor: float) -> float:
        trial = dataclasses.replace(times(budgets, factor), min_steps=1)
        try:
            packs = _every_pack(dataclasses.replace(plain, budgets=trial), spec)
        except UserError:  # the study itself will say so
            return 0.0
        if study.sweep == "halving":
            return rounds.expected_flops(packs)
        return sum(pack.trained_flops for pack in packs)

    # What the ranges leave out, and batches that follow D, change with the factor: first without, from long budgets,
    # where rounding to steps is small; relative ones such as (1, 2, 4) will do.
    whole = dataclasses.replace(budgets, ratio_range=(0.0, 1e12), max_tokens=1e15, isoflop_sizes=0)
    scales = {scale: _counts(study, spec, scale) for scale in scales_of(study)}
    lengths = [b.tokens for scale, c in scales.items() for b in budgets_of(_with(study, whole), c, scale)]
    factor = 1e8 / min(lengths, default=1e8)
    for _ in range(4):
        factor *= wanted / (spent(whole, factor) or wanted)
    found = {factor: spent(budgets, factor)}
    if abs(found[factor] / wanted - 1) > HOURS_OFF:
        found |= {f: spent(budgets, f) for f in factor * HOURS_STEP ** np.arange(-60, 35)}
        found |= {f: spent(budgets, f) for f in _nearest(found, wanted) * HOURS_STEP ** np.linspace(-1, 1, 41)}
        factor = _nearest(found, wanted)
    if found[factor] > 0 and abs(found[factor] / wanted - 1) > 3 * HOURS_OFF:
        nearest = found[factor] / budgets.device_flops / 3600
        raise UserError(
            f"budgets.device_hours={budgets.device_hours:g}: within budgets.ratio_range={budgets.ratio_range} and "
            f"budgets.max_tokens={budgets.max_tokens:g} the nearest that can be spent is {nearest:.3g} hours; widen "
            "them, add widths, or change the hours"
        )
    return _with(study, times(budgets, factor))


def _nearest(found: Mapping[float, float], wanted: float) -> float:
    """The factor whose FLOPs are nearest to those wanted."""
    return min(found, key=lambda factor: abs(math.log(max(found[factor], 1e-300) / wanted)))


def _with(study: Study, budgets: Budgets) -> Study:
    return dataclasses.replace(study, budgets=budgets)


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
    """A pack that is being put together: lanes, their places by what is swept, (lane, steps, cool-down) -> budget."""

    lanes: dict[Lane, int] = dataclasses.field(default_factory=dict)
    places: dict[tuple[tuple, ...], list[int]] = dataclasses.field(default_factory=dict)
    trained: dict[tuple[int, int, float], Budget] = dataclasses.field(default_factory=dict)

    def places_of(self, swept: tuple[tuple, ...]) -> list[int]:
        """Places of the lanes with these rates, decays, scales, warm-ups, b2, and seeds with their starts."""
        if swept not in self.places:
            lanes = (
                Lane(rate, decay, scale, seed, warmup, b2, start)
                for rate, decay, scale, warmup, b2, (seed, start) in itertools.product(*swept)
            )
            self.places[swept] = [self.lanes.setdefault(lane, len(self.lanes)) for lane in lanes]
        return self.places[swept]


def _packs(
    study: Study,
    spec: Spec,
    shape: tuple[int, int],
    counts: Counts,
    sweeps: Mapping[float, set[tuple[int, int]]] | None,
) -> list[Pack]:
    """The packs of one scale: one for each batch size."""
    width, depth = shape
    scale = scale_name(width, depth)
    drafts: dict[int, _Draft] = {}
    starts = {seed: _start(study, scale, seed) for seed in study.seeds_of(width, depth)}
    for budget in budgets_of(study, counts, shape, sweeps):
        inputs = {"N": float(counts.params_non_embedding), "D": float(budget.tokens), "T": float(spec.context)}
        where = f"at scale {scale}, {budget.name}"
        for batch_size in _values(study.optimizer.batch_size, "batch_size", inputs, "optimizer.batch_size " + where):
            batch_size = int(batch_size)
            _check_mesh(study, batch_size, width, scale)
            steps = steps_of(study, budget, batch_size * spec.context, scale)
            sized = inputs | {"B": float(batch_size), "S": float(steps)}
            _add(study, drafts.setdefault(batch_size, _Draft()), budget, steps, sized, starts, where)
    return [
        _pack(study, spec, counts, (width, depth, scale + (f"-b{size}" if len(drafts) > 1 else "")), size, draft)
        for size, draft in drafts.items()
    ]


def _add(
    study: Study,
    draft: _Draft,
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
    swept = tuple(map(tuple, (rates, decays, optimizer.init_scales, warmups, second, starts.items())))
    for cooldown in values(schedule.cooldown_fraction, "cooldown_fraction", "schedule.cooldown_fraction"):
        warm = fork_of(schedule, steps, cooldown) if schedule.name == "wsd" else steps
        if warm <= max(warmups):
            raise UserError(
                f"{budget.name} is {steps} steps {where.partition(',')[0]}: no step is left after "
                f"schedule.warmup_steps={max(warmups)}; lower it or raise the budget"
            )
        for place in draft.places_of(swept):
            draft.trained.setdefault((place, steps, cooldown), budget)


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
    study: Study, spec: Spec, counts: Counts, shape: tuple[int, int, str], batch_size: int, draft: _Draft
) -> Pack:
    width, depth, name = shape
    scale, tokens_per_step = scale_name(width, depth), batch_size * spec.context
    place = {end: i for i, end in enumerate(branches_of(study.schedule, draft.trained))}
    runs = {
        (lane, steps, cooldown): Run(
            run_id="",
            trunk_id="",
            scale=scale,
            lane=lane,
            budget=place[steps, cooldown],
            steps=steps,
            tokens=steps * tokens_per_step,
            flops=float(steps * tokens_per_step * counts.flops_per_token),
            flops_6nd=float(steps * tokens_per_step * counts.flops_6nd_per_token),
            wanted=budget.tokens,
        )
        for (lane, steps, cooldown), budget in draft.trained.items()
    }
    pack = Pack(
        name=name,
        scale=scale,
        width=width,
        depth=depth,
        batch_size=batch_size,
        tokens_per_step=tokens_per_step,
        counts=counts,
        schedule=study.schedule,
        lanes=tuple(draft.lanes),
        budgets=(),
        cooldowns=(),
        runs=(),
    )
    return arranged(pack, runs)


def _check_mesh(study: Study, batch_size: int, width: int, scale: str) -> None:
    """Raises UserError when a batch or the parameters do not divide over the study's mesh."""
    execution = study.execution
    _, data, fsdp = execution.mesh or (1, 1, 1)
    for name, size, shares, settings in (
        ("optimizer", batch_size, data * fsdp * execution.parts, ("mesh", "microbatches")),
        ("evaluation", study.evaluation.batch_size, data * fsdp, ("mesh",)),
    ):
        if size % shares:
            why = " and ".join(f"execution.{setting}={getattr(execution, setting)}" for setting in settings)
            raise UserError(f"{name}.batch_size={size} is not divisible by {shares}, the parts that {why} make of it")
    if width % fsdp:
        raise UserError(
            f"scale {scale}: width {width} is not divisible by {fsdp}, the parts that execution.mesh={execution.mesh} "
            "makes of the parameters"
        )
