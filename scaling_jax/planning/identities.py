"""The identities of planned runs, and the packs of a workdir that has grown."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from scaling_jax.identity import Identity, PackRecord
from scaling_jax.models import optimizers
from scaling_jax.models.family import Spec
from scaling_jax.planning.pack import Pack, Run
from scaling_jax.study import Execution, Study

# Fields of a study's optimizer and schedule that differ by lane or by pack.
SWEPT = ("learning_rates", "weight_decays", "init_scales", "batch_size", "b2")
SWEPT_SCHEDULE = ("warmup_steps", "cooldown_fraction")
OPTIMIZER_FIELDS = ("b1", "eps", "momentum")  # of `Optimizer`, read by some optimizers and not by others


def identified(
    packs: Sequence[Pack], study: Study, spec: Spec, dataset_hash: str, compute_dtype: str | None = None
) -> tuple[Pack, ...]:
    """The packs with the identities of their runs.

    Args:
      packs: of `make_plan`.
      study, spec: they were planned for.
      dataset_hash: identity of the corpus.
      compute_dtype: that "auto" resolves to; by default this process's (see `compute_dtype_of`).
    """
    dtype = compute_dtype or compute_dtype_of(study.execution)
    shared = frame(study, spec)

    def one(pack: Pack) -> Pack:
        def of(cooldown: float | None) -> Identity:
            return Identity(shared, dataset_hash, dtype, pack.batch_size, cooldown)

        def known(run: Run) -> Run:
            identity, lane = of(pack.cooldown(run.budget)), pack.lanes[run.lane]
            run_id = identity.run_id(pack.width, pack.depth, lane, run.steps)
            return dataclasses.replace(run, run_id=run_id, trunk_id=trunks[run.lane])

        # A trunk does not depend on the cool-downs that leave it; where there is one, its identity has always named it.
        named = _named(pack)
        own = named[-1] if len(named) <= 2 else None
        trunks = [of(own).trunk_id(pack.width, pack.depth, lane) for lane in pack.lanes]
        aliases = tuple(
            tuple(of(other).trunk_id(pack.width, pack.depth, lane) for other in named) for lane in pack.lanes
        )
        return dataclasses.replace(pack, runs=tuple(map(known, pack.runs)), own_cooldown=own, aliases=aliases)

    return tuple(map(one, packs))


def _named(pack: Pack) -> list[float | None]:
    """Cool-downs that the identity of one of its trunks may name; None where several share it."""
    return list(dict.fromkeys([None, *map(pack.cooldown, range(len(pack.budgets)))]))


def frame(study: Study, spec: Spec) -> dict[str, Any]:
    """What all runs of a workdir share, as plain JSON types; the corpus' content and the swept quantities come on top.

    Settings that the chosen optimizer, schedule or parametrization does not read are left out.

    Args:
      study: the study.
      spec: what its data looks like to a model.
    """
    resolved = study.to_dict()
    optimizer, schedule, parametrization = (resolved[k] for k in ("optimizer", "schedule", "parametrization"))
    rule = optimizers.rule(study.optimizer.name)
    read = {*rule.fields} | ({"b1"} if rule.schedule_free else set())  # which the average takes, not the factory
    unread = {*SWEPT} | ({*OPTIMIZER_FIELDS} - read)
    optimizer["options"] = {
        k: v for k, v in optimizer["options"].items() if k not in rule.defaults or v != rule.defaults[k]
    }
    if study.optimizer.spike_policy == "keep":
        unread.add("spike_factor")
    if study.schedule.name == "constant":
        del schedule["final_fraction"]
    if study.parametrization.name == "standard":
        del parametrization["base_width"]
    if study.parametrization.name != "completep":
        parametrization.pop("base_depth", None)
    evaluation = {k: v for k, v in resolved["evaluation"].items() if k != "sets"}  # they change no run
    data = {"kind": spec.kind, "vocab_size": spec.vocab_size, "context": spec.context}
    if spec.kind == "images":
        data |= {"image_shape": list(spec.image_shape or ()), "augment": study.data.augment}
    start = {"init": "trained"} if study.init.starts else {}
    return {
        **start,
        "family": _as_floats(study.family, resolved["family"]),
        "parametrization": parametrization,
        "schedule": {k: v for k, v in schedule.items() if k not in SWEPT_SCHEDULE},
        "optimizer": {k: v for k, v in optimizer.items() if k not in unread},
        "data": data,
        "evaluation": evaluation,
    }


def _as_floats(family: Any, options: dict[str, Any]) -> dict[str, Any]:
    """The options of a family; a whole number given for one that is a float by default is that float."""
    floats = {field.name for field in dataclasses.fields(family) if isinstance(field.default, float)}
    return {k: float(v) if k in floats and isinstance(v, int) else v for k, v in options.items()}


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
      packs: of `identified`.
      recorded: packs of the workdir by name.
    """
    out: list[Pack] = []
    taken = set(recorded)
    for pack in packs:
        same_scale = {name: record for name, record in recorded.items() if record.scale == pack.scale}
        home = {trunk_id: name for name, record in same_scale.items() for trunk_id in record.lanes}
        names = (f"{pack.name}-{number}" if number > 1 else pack.name for number in itertools.count(1))
        fresh = next(name for name in names if name not in taken)
        members: dict[tuple[str, float | None], list[int]] = {}
        renamed: dict[int, str] = {}
        for lane, aliases in enumerate(pack.aliases):
            known = next((i for i, trunk_id in enumerate(aliases) if trunk_id in home), None)
            name, own = fresh, pack.own_cooldown
            if known is not None:
                name, own = home[aliases[known]], _named(pack)[known]
                renamed[lane] = aliases[known]
            members.setdefault((name, own), []).append(lane)
        called = [dataclasses.replace(run, trunk_id=renamed.get(run.lane, run.trunk_id)) for run in pack.runs]
        pack = dataclasses.replace(pack, runs=tuple(called))
        out += [
            dataclasses.replace(subset(pack, lanes), name=name, own_cooldown=own)
            for (name, own), lanes in members.items()
        ]
        taken |= {name for name, _ in members}
    return tuple(out)


def subset(pack: Pack, lanes: Sequence[int], wanted: Callable[[Run], bool] = lambda run: True) -> Pack:
    """The pack of some of the lanes (indices), with those of their runs that are wanted (one each, at least)."""
    runs = [(new, run) for new, old in enumerate(lanes) for run in pack.runs_of(old) if wanted(run)]
    kept = sorted({run.budget for _, run in runs})
    return dataclasses.replace(
        pack,
        lanes=tuple(pack.lanes[i] for i in lanes),
        budgets=tuple(pack.budgets[i] for i in kept),
        cooldowns=tuple(pack.cooldowns[i] for i in kept),
        runs=tuple(dataclasses.replace(run, lane=new, budget=kept.index(run.budget)) for new, run in runs),
        aliases=tuple(pack.aliases[i] for i in lanes) if pack.aliases else (),
    )


def record_of(pack: Pack) -> PackRecord:
    """What a workdir keeps of the pack for as long as it may grow."""
    trunks = tuple(pack.trunk_id(lane) for lane in range(len(pack.lanes)))
    forks = tuple(sorted({phase.start for phase in pack.phases if phase.kind == "branch"}))
    return PackRecord(pack.scale, trunks, forks)
