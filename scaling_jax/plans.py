"""The runs of a study, before anything is trained: what `scaling-jax plan` and the start of a run share.

Imports neither pandas nor what trains: a study of 100,000 runs is planned within 3 seconds (benchmarks/README.md).
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

import scaling_jax
from scaling_jax import data, fitting, outlook
from scaling_jax.engines import estimate
from scaling_jax.errors import UserError
from scaling_jax.fitting.laws.base import checked_fixed
from scaling_jax.models.family import Model, Spec
from scaling_jax.outlook import Outlook, Prior
from scaling_jax.planning import Pack, Run, make_plan
from scaling_jax.storage.records import Records
from scaling_jax.storage.workdir import Stored, Workdir
from scaling_jax.study import AUTO_LAW, Study
from scaling_jax.trained import starts
from scaling_jax.trained.scores import check_sets
from scaling_jax.training import hardware
from scaling_jax.training.scale import scaling_of

if TYPE_CHECKING:
    import pandas as pd

TOKEN_METRICS = ("bits_per_byte", "unigram_normalized")  # derived from the loss, by the corpus


@dataclasses.dataclass(frozen=True)
class Plan:
    """The runs of a study, before anything is trained; `print` shows it as a table.

    Attributes:
      study: what was asked for.
      spec: what its data looks like.
      packs: runs of one shape that are trained together, in ladder order.
      prior: law and noise that the outlook is computed with; None takes the default.
    """

    study: Study
    spec: Spec
    packs: tuple[Pack, ...]
    prior: Prior | None = None

    @property
    def runs(self) -> tuple[Run, ...]:
        """Every run, pack by pack."""
        return tuple(run for pack in self.packs for run in pack.runs)

    def table(self) -> pd.DataFrame:
        """One row per scale and budget.

        Columns: scale, width, depth, params (N, as `fit.params` counts it), tokens, flops, steps (of one run), runs,
        memory_bytes (one device's estimated peak), seconds (estimated, on this process's devices, all runs together).
        """
        import pandas as pd

        at, _ = estimate.speed(self.study.family.name)
        frame = pd.DataFrame([dataclasses.asdict(row) for row in estimate.rows(self.study, self.packs, self.spec)])
        frame["seconds"] = frame.pop("train_flops") / [at(width) for width in frame["width"]]
        return frame

    @functools.cached_property
    def warnings(self) -> tuple[str, ...]:
        """Data that is left out or converted, and facts that will make the fit less certain than it could be."""
        notes: tuple[str, ...] = ()
        with contextlib.suppress(UserError):  # planned from a workdir, without its data
            notes = data.notes(self.study.data)
        return (*notes, *map(str, self.outlook.findings))

    @functools.cached_property
    def outlook(self) -> Outlook:
        """What the study will be able to tell: expected intervals, what limits them, and what would change that."""
        tokens = None
        with contextlib.suppress(UserError):
            tokens = data.known_tokens(self.study.data)
        return outlook.assess(self.study, self.packs, self.spec, self.prior, tokens)

    def cost(self, chip: str, chips: int = 1, price: float | None = None) -> str:
        """One line: time, and dollars at `price` per chip-hour, on chips such as "v6e" or "H100".

        Raises:
          UserError: a chip whose peak is not known.
        """
        return estimate.cost_text(self.packs, chip, chips, price)

    def __str__(self) -> str:
        lines = [estimate.plan_text(self.study, self.packs, self.spec), str(self.outlook)]
        return "\n".join(lines + [f"Warning: {warning}" for warning in self.warnings])


def plan(study: Study, workdir: Any = None, *, prior: str | Prior | None = None, force: bool = False) -> Plan:
    """The runs that a study asks for; trains nothing.

    Args:
      study: the study.
      workdir: where it, or a smaller one, was trained: the data need not be there any more.
      prior: what the outlook believes before anything is trained: a workdir (its law and the noise of its seeds), a
        name of `fitting.published`, a fit's JSON file, or an `outlook.Prior`.
      force: plan even what cannot answer, such as D = 20 N throughout.

    Raises:
      UserError: the study cannot be trained or fitted as it is.

    Example:
      print(plan(study))
      plan(study).table()["flops"].sum()
    """
    place = None if workdir is None else Workdir(workdir)
    stored = None if place is None else place.stored()
    if place is not None and stored is None:
        place.check_empty()
    return dataclasses.replace(planned(study, workdir, stored, force), prior=_prior(prior))


def _prior(text: Any) -> Prior | None:
    if text is None or isinstance(text, Prior):
        return text
    if (found := outlook.named_prior(str(text))) is not None:
        return found
    if not (Workdir(text).path / "study.json").exists():
        known = ", ".join(fitting.published)
        raise UserError(f"--prior={text}: neither a workdir, a fit's .json nor one of {known}")
    done = scaling_jax.load(text).analysis  # imports pandas, which planning does without
    if done.fit is None:
        raise UserError(f"--prior={text}: no law fits it: {done.no_fit}")
    trunk, own = outlook.TRUNK_NOISE, outlook.RUN_NOISE
    if done.linearized is not None and done.linearized.noise.freedom:
        trunk, own = done.linearized.noise.trunk**0.5, done.linearized.noise.run**0.5
    return outlook.checked(Prior(done.fit, trunk, own, str(text)))


def planned(study: Study, workdir: Any, stored: Stored | None, force: bool) -> Plan:
    """`plan` without a prior; the data is described by `stored`, else read, else what `workdir` recorded of it."""
    check_study(study)
    try:
        spec = data.describe(study.data) if stored is None else Spec.from_dict(stored.spec)
    except UserError:  # a finished study can do without
        stored = None if workdir is None else Workdir(workdir).stored_for(study.to_dict()["data"])
        if stored is None:
            raise
        spec = Spec.from_dict(stored.spec)
    study = starts.found(study, spec, workdir)
    packs = _within_memory(study, make_plan(study, spec), spec)
    if stored is None:
        check_sets(study, spec)
    _check_metrics(study, spec, workdir)
    if not force and (refused := outlook.refused(study, packs)):
        raise UserError(f"{refused}, or pass --force")
    return Plan(study, spec, packs)


def _within_memory(study: Study, packs: tuple[Pack, ...], spec: Spec) -> tuple[Pack, ...]:
    """The packs that fit `budgets.memory_gib` on one device."""
    cap = study.budgets.memory_gib
    if cap is None:
        return packs
    with contextlib.suppress(RuntimeError):  # the estimate asks for the devices, whose number is fixed from then on
        hardware.use_cpu_devices()
    needs = {row.scale: row.memory_bytes / 2**30 for row in estimate.rows(study, packs, spec)}
    fit = tuple(pack for pack in packs if needs[pack.name] <= cap)
    if not fit:
        name, least = min(needs.items(), key=lambda item: item[1])
        raise UserError(
            f"budgets.memory_gib={cap:g} is below the smallest model: {name} takes {least:.3g} GiB; raise it"
        )
    return fit


def check_study(study: Study) -> None:
    """Raises UserError for settings that would only be found wrong after training."""
    if not isinstance(study, Study):
        raise UserError(f"a study is a scaling_jax.Study, not {type(study).__name__}")
    try:
        law = fitting.laws[study.fit.law] if study.fit.law != AUTO_LAW else None
    except fitting.FitError as error:
        raise UserError(f"fit.law: {error}") from error
    if law is None:
        return
    try:
        checked_fixed(law, study.fit.fixed)
    except fitting.FitError as error:
        raise UserError(f"fit.{error}") from error
    if unknown := [k for k in study.fit.inputs if k in ("N", "D") or k not in law.inputs or law.from_nd is not None]:
        inputs = ", ".join(law.inputs)
        raise UserError(f"fit.inputs: {law.name!r} has no input {unknown[0]!r} besides N and D; it has {inputs}")


def _check_metrics(study: Study, spec: Spec, workdir: Any = None) -> None:
    """Raises UserError when a metric to fit will not be a column of the results."""
    wanted = [("fit.metric", study.fit.metric), *(("fit.also", name) for name in study.fit.also)]
    if all(name == "loss" for _, name in wanted):
        return
    plain = (*_family_metrics(study, spec), *(TOKEN_METRICS if spec.kind == "tokens" else ()))
    endings = [one.name for one in study.evaluation.sets]
    known = (*plain, *(f"{name}_{ending}" for ending in endings for name in plain))
    for field, name in wanted:
        if name not in known and workdir is not None:  # it may be a column of `evaluate`
            known += tuple(f"{name}_{ending}" for ending in Records(workdir).score_names() for name in plain)
        if name not in known:
            raise UserError(
                f"{field}: family {study.family.name!r} has no metric {name!r}; give one of {', '.join(known)}"
            )


def _family_metrics(study: Study, spec: Spec) -> tuple[str, ...]:
    """Names of the metrics that the family computes; from shapes alone, on no device."""
    width, depth = study.ladder.scales()[0]
    scaling = scaling_of(study, width, depth)
    plain = dataclasses.replace(
        study.execution, compute_dtype="float32", attention="xla", scan_layers=False, remat=False
    )
    if spec.kind == "tokens":
        batch: Any = jax.ShapeDtypeStruct((1, spec.context + 1), "int32")
    else:
        image = jax.ShapeDtypeStruct((1, *(spec.image_shape or ())), "float32")
        batch = {"image": image, "label": jax.ShapeDtypeStruct((1,), "int32")}
    built: list[Model] = []

    def evaluate(batch: Any) -> Any:
        built.append(study.family.build(width, depth, spec, scaling, plain))  # traced, too: it may make small arrays
        return built[0].evaluate(built[0].init(jax.random.key(0)), batch)

    sums = jax.eval_shape(evaluate, batch)
    return tuple(built[0].metrics({name: np.ones(leaf.shape, leaf.dtype) for name, leaf in sums.items()}))
