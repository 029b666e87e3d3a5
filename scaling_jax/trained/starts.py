"""Fine-tuning: the trained runs that a study with `init` starts from, and their parameters.

A lane starts at the end of a run of its scale, cooled down, at the largest budget or that of `init.tokens`: the best
run of the lane's own seed, else the best of any. Arrays whose shape or meaning the data decides (embedding and head of
another vocabulary, the head of other classes, the first layer of other images) are made anew from the lane's seed.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from scaling_jax.data import resolve as sources
from scaling_jax.data import tokenizers
from scaling_jax.errors import UserError
from scaling_jax.identity import differences
from scaling_jax.models.family import Model, Spec, attention_head_dim
from scaling_jax.planning import Pack, identified, scale_name
from scaling_jax.planning.budgets import scales_of
from scaling_jax.settings import Init, Start
from scaling_jax.storage.records import Records
from scaling_jax.storage.workdir import Workdir
from scaling_jax.study import Data, Study
from scaling_jax.trained import tokenizer
from scaling_jax.trained.models import Models
from scaling_jax.training import hardware
from scaling_jax.training.scale import scaling_of

NEAR = 0.01  # relative difference between a budget and the same one in whole steps


def found(study: Study, spec: Spec, workdir: Any = None) -> Study:
    """The study with `init.starts` filled in; reads results and no checkpoint.

    Args:
      study: as the user gave it.
      spec: what its data looks like.
      workdir: of the study itself: what it started from is taken from there where the other workdir is gone.

    Raises:
      UserError: the workdir has no trained models of these scales and of this family, or the study's settings cannot
        go with a trained start.
    """
    init = study.init
    if init.from_workdir is None:
        return dataclasses.replace(study, init=Init()) if init != Init() else study
    if set(study.optimizer.init_scales) != {1.0}:
        raise UserError("optimizer.init_scales: trained parameters are not scaled; drop it, or init.from_workdir")
    try:
        models = Models(init.from_workdir)
    except UserError as error:
        stored = None if workdir is None else Workdir(workdir).stored()
        if stored is not None and (before := Study.from_dict(stored.study, any_family=True).init).starts:
            return dataclasses.replace(study, init=before)
        raise UserError(f"init.from_workdir: {error}") from error
    old, new = (s.to_dict()["family"] for s in (models.study, study))
    if apart := differences(old, new, "family."):
        raise UserError(
            f"init.from_workdir: the models of {init.from_workdir!r} are of another family ({'; '.join(apart)[:200]}); "
            "set it as there"
        )
    starts = tuple(start for scale in scales_of(study) for start in _starts(models, study, spec, *scale))
    return dataclasses.replace(study, init=Init(from_workdir=str(models.path), tokens=init.tokens, starts=starts))


def check(study: Study, spec: Spec, packs: Sequence[Pack], workdir: Any) -> None:
    """Raises UserError where a run is missing and a checkpoint to start from is gone.

    Args:
      study, spec, packs: of the plan.
      workdir: of the study, which need not exist.
    """
    if not study.init.starts:
        return
    if (stored := Workdir(workdir).stored()) is not None:
        planned = identified(packs, study, spec, stored.dataset_hash)
        if {run.run_id for pack in planned for run in pack.runs} <= set(Records(workdir).finished()):
            return
    try:
        models = Models(study.init.from_workdir)
        for run_id in dict.fromkeys(start.run_id for start in study.init.starts):
            models.checkpoint(models.best(run_id=run_id))
    except UserError as error:
        raise UserError(f"init.from_workdir: {error}") from error


def parameters(study: Study, spec: Spec) -> Callable[[Pack], list[Any]] | None:
    """pack -> parameters of every lane on the host; None for a study that starts fresh."""
    if not study.init.starts:
        return None
    models = functools.cache(lambda: Models(study.init.from_workdir))

    def of(pack: Pack) -> list[Any]:
        starts = [lane.start for lane in pack.lanes if lane.start is not None]
        trained = models().params([models().best(run_id=start.run_id) for start in starts])
        init = jax.jit(_model(study, spec, pack.width, pack.depth).init)
        fresh = functools.cache(lambda seed: init(jax.random.key(seed)))
        return [_joined(trained[start.run_id], start.fresh, lambda s=start: fresh(s.seed)) for start in starts]

    return of


def _joined(trained: Any, fresh: Sequence[str], make: Callable[[], Any]) -> Any:
    """Trained arrays, those named in `fresh` from `make`; NumPy."""
    if not fresh:
        return jax.tree.map(np.asarray, trained)
    old = _named(trained)
    pick = lambda path, leaf: np.asarray(leaf if _name(path) in fresh else old[_name(path)])  # noqa: E731
    return jax.tree_util.tree_map_with_path(pick, make())


def _starts(models: Models, study: Study, spec: Spec, width: int, depth: int) -> list[Start]:
    """Where the seeds of one scale start."""
    scale, where = scale_name(width, depth), f"init.from_workdir: {study.init.from_workdir!r}"
    rows = [row for row in models.rows.values() if row["scale"] == scale]
    if not rows:
        raise UserError(f"{where} has no finished run of scale {scale}; there are {', '.join(models.scales)}")
    wanted = study.init.tokens or max(row["tokens"] for row in rows)
    near = [row for row in rows if abs(row["tokens"] / wanted - 1) <= NEAR]
    if not near:
        there = ", ".join(f"{tokens:g}" for tokens in sorted({row["tokens"] for row in rows}))
        raise UserError(f"init.tokens={wanted:g}: scale {scale} there has runs of {there} tokens; give one of them")
    fresh, out = _fresh(models, study, spec, width, depth), []
    for seed in study.seeds_of(width, depth):
        row = min([row for row in near if row["seed"] == seed] or near, key=lambda row: row["loss"])
        tokens = float(row["tokens"] + row.get("pretrain_tokens", 0))
        out.append(Start(scale=scale, seed=seed, run_id=row["run_id"], tokens=tokens, fresh=fresh))
    return out


def _fresh(models: Models, study: Study, spec: Spec, width: int, depth: int) -> tuple[str, ...]:
    """Names of the arrays that are made anew.

    Raises:
      UserError: arrays differ in what the data does not decide.
    """
    scalings = [scaling_of(s, width, depth).branch_multiplier for s in (models.study, study)]
    old, new = _shapes(models.study, models.spec, width, depth), _shapes(study, spec, width, depth)
    if old.keys() != new.keys() or scalings[0] != scalings[1]:
        field = "execution.scan_layers" if old.keys() != new.keys() else "parametrization"
        raise UserError(
            f"init.from_workdir: scale {scale_name(width, depth)} is built differently there ({field}): set it as there"
        )
    other = _shapes(study, dataclasses.replace(spec, vocab_size=spec.vocab_size + 1), width, depth)
    same = _same_labels(models, study, spec)
    return tuple(name for name in new if new[name] != old[name] or (not same and new[name] != other[name]))


def _same_labels(models: Models, study: Study, spec: Spec) -> bool:
    """True where a token, or a class, means the same in both studies."""
    old, new = models.study.data, study.data
    if spec.vocab_size != models.spec.vocab_size:
        return False
    if (old.source, old.tokenizer) == (new.source, new.tokenizer):
        return True
    if spec.kind == "images":
        names = [_classes(data) for data in (old, new)]
        return names[0] is not None and names[0] == names[1]
    if "bytes" in (old.tokenizer, new.tokenizer):
        return old.tokenizer == new.tokenizer
    if new.tokenizer.startswith("bpe:"):  # trained on another text
        return False
    here = tokenizers.make(new.tokenizer).describe()
    return tokenizer.of_workdir(models.path, models.study, models.spec).describe() == here


def _classes(data: Data) -> Any:
    """Names of the classes of a folder of images; None of other sources, and of one that is gone."""
    try:
        return sources.resolve(data).info.get("classes")
    except UserError:
        return None


def _model(study: Study, spec: Spec, width: int, depth: int) -> Model:
    """One scale of a study, for its arrays alone."""
    plain = dataclasses.replace(study.execution, compute_dtype="float32", attention="xla", remat=False)
    execution = hardware.resolve(plain, width, depth, spec, attention_head_dim(study.family), "cpu")
    return study.family.build(width, depth, spec, scaling_of(study, width, depth), execution)


def _shapes(study: Study, spec: Spec, width: int, depth: int) -> Mapping[str, tuple[int, ...]]:
    """Traced throughout, since building may make small arrays: no device is asked for before processes have met."""
    shapes = jax.eval_shape(lambda: _model(study, spec, width, depth).init(jax.random.key(0)))
    return {name: leaf.shape for name, leaf in _named(shapes).items()}


def _named(tree: Any) -> dict[str, Any]:
    """Arrays by their path in the pytree, joined by dots."""
    return {_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".")
