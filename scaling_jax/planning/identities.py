"""The identities of planned runs, and the packs of a workdir that has grown."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
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
        identity = Identity(shared, dataset_hash, dtype, pack.batch_size, pack.cooldown_fraction)
        trunks = [identity.trunk_id(pack.width, pack.depth, lane) for lane in pack.lanes]

        def known(run: Run) -> Run:
            run_id = identity.run_id(pack.width, pack.depth, pack.lanes[run.lane], run.steps)
            return dataclasses.replace(run, run_id=run_id, trunk_id=trunks[run.lane])

        return dataclasses.replace(pack, runs=tuple(map(known, pack.runs)))

    return tuple(map(one, packs))


def frame(study: Study, spec: Spec) -> dict[str, Any]:
    """What all runs of a workdir share, as plain JSON types; the corpus' content and the swept quantities come on top.

    Settings that the chosen optimizer, schedule or parametrization does not read are left out.

    Args:
      study: the study.
      spec: what its data looks like to a model.
    """
    resolved = study.to_dict()
    optimizer, schedule, parametrization = (resolved[k] for k in ("optimizer", "schedule", "parametrization"))
    unread = {*SWEPT} | ({*OPTIMIZER_FIELDS} - {*optimizers.rule(study.optimizer.name).fields})
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
        "family": resolved["family"],
        "parametrization": parametrization,
        "schedule": {k: v for k, v in schedule.items() if k not in SWEPT_SCHEDULE},
        "optimizer": {k: v for k, v in optimizer.items() if k not in unread},
        "data": data,
        "evaluation": evaluation,
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
        members: dict[str, list[int]] = {}
        for lane in range(len(pack.lanes)):
            members.setdefault(home.get(pack.trunk_id(lane), fresh), []).append(lane)
        out += [_subset(pack, name, lanes) for name, lanes in members.items()]
        taken |= set(members)
    return tuple(out)


def _subset(pack: Pack, name: str, lanes: Sequence[int]) -> Pack:
    """The pack of some of the lanes (indices), with the budgets that they train to."""
    kept = sorted({run.budget for old in lanes for run in pack.runs_of(old)})
    runs = tuple(
        dataclasses.replace(run, lane=new, budget=kept.index(run.budget))
        for new, old in enumerate(lanes)
        for run in pack.runs_of(old)
    )
    budgets = tuple(pack.budgets[i] for i in kept)
    return dataclasses.replace(pack, name=name, lanes=tuple(pack.lanes[i] for i in lanes), budgets=budgets, runs=runs)


def record_of(pack: Pack) -> PackRecord:
    """What a workdir keeps of the pack for as long as it may grow."""
    trunks = tuple(pack.trunk_id(lane) for lane in range(len(pack.lanes)))
    forks = tuple(sorted({phase.start for phase in pack.phases if phase.kind == "branch"}))
    return PackRecord(pack.scale, trunks, forks)
